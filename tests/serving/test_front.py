"""The HTTP front over a real network in this process: limits, errors, images, the page."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from scpl_ray.network import Network
from scpl_ray.predictor import Predictor
from scpl_ray.serving.settings import Limits, Settings
from tests.fuzz_serve import fuzz
from tests.helpers import until
from tests.serving.servers import JSON, call, front

TOKEN = "0123456789abcdef"
OPEN = Limits(body_kib=64, inputs=3, text_chars=50, rate=0, body_s=1.0)


@pytest.fixture(scope="module")
def texts_url(text_network: Network) -> Iterator[str]:
    with front(text_network, Settings(0.9, limits=OPEN)) as url:
        yield url


@pytest.fixture(scope="module")
def images_url(image_network: Network) -> Iterator[str]:
    with front(image_network, Settings(0.9, limits=OPEN)) as url:
        yield url


def digit(place: int, kind: str = "PNG") -> bytes:
    from sklearn.datasets import load_digits

    pixels = (load_digits().images[place] / 16 * 255).astype(np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, kind)
    return made.getvalue()


def form(*files: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its content type."""
    parts = [
        f'Content-Disposition: form-data; name="{k}"\r\n\r\n{v}'.encode() for k, v in fields.items()
    ]
    parts += [
        b'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + f for f in files
    ]
    body = b"".join(b"--mark\r\n" + part + b"\r\n" for part in parts) + b"--mark--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=mark"}


BAD: list[tuple[str, Any, int, str]] = [
    ("no_inputs", {}, 422, "inputs"),
    ("none", {"inputs": []}, 422, "inputs"),
    ("a_word", {"inputs": "alpha"}, 422, "inputs"),
    ("a_number", {"inputs": ["alpha", 3]}, 422, "inputs[1]"),
    ("too_many", {"inputs": ["alpha"] * 4}, 422, "inputs"),
    ("too_long", {"inputs": ["alpha", "a" * 51]}, 422, "inputs[1]"),
    ("no_word", {"inputs": ["alpha", "?!"]}, 422, "inputs[1]"),
    ("empty", {"inputs": [""]}, 422, "inputs[0]"),
    ("unknown", {"inputs": ["alpha"], "treshold": 1}, 422, "treshold"),
    ("too_high", {"inputs": ["alpha"], "threshold": 1.5}, 422, "threshold"),
    ("no_number", {"inputs": ["alpha"], "threshold": "0.5"}, 422, "threshold"),
    ("no_bool", {"inputs": ["alpha"], "early_exit": 1}, 422, "early_exit"),
    ("nan", b'{"inputs": ["alpha"], "threshold": NaN}', 422, "threshold"),
    ("a_list", ["alpha"], 422, "body"),
    ("no_json", b"{'inputs'", 400, "body"),
    ("nothing", b" ", 400, "body"),
    ("deep", b"[" * 20_000, 400, "body"),
    ("surrogate", b'{"inputs": ["\\ud800"]}', 400, "body"),
    ("large", {"inputs": ["a" * 70_000]}, 413, "body"),
]


@pytest.mark.parametrize(("name", "body", "status", "field"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_request_is_refused_and_its_field_named(
    texts_url: str, name: str, body: Any, status: int, field: str
):
    got, answer, _ = call(texts_url, body=body, headers=JSON)
    assert got == status, answer
    assert answer["errors"][0]["field"] == field and answer["errors"][0]["message"]


def test_all_that_is_wrong_is_named_at_once(texts_url: str):
    _, answer, _ = call(texts_url, body={"inputs": ["alpha", 1], "threshold": 7, "x": 0})
    assert {e["field"] for e in answer["errors"]} == {"inputs[1]", "threshold", "x"}


def test_other_paths_methods_and_types(texts_url: str):
    assert call(texts_url, "/nothing")[0] == 404
    status, answer, headers = call(texts_url, "/predict")
    assert (status, answer["errors"][0]["field"], headers["allow"]) == (405, "method", "POST")
    status, answer, _ = call(texts_url, body=b"x", headers={"Content-Type": "text/plain"})
    assert (status, answer["errors"][0]["field"]) == (415, "header Content-Type")
    assert call(texts_url, headers={"Host": "evil.example"}, path="/health")[0] == 421
    assert call(texts_url, "/docs")[0] == 404, "FastAPI's own page loads scripts from elsewhere"


def test_a_body_in_chunks_is_limited_too(texts_url: str):
    connection = http.client.HTTPConnection(texts_url.removeprefix("http://"), timeout=20)
    sent = (b"a" * 16_384 for _ in range(400))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it hung up in the middle
        connection.request("POST", "/predict", sent, JSON, encode_chunked=True)
    with connection.getresponse() as response:
        assert response.status == 413 and json.load(response)["errors"][0]["field"] == "body"


def test_a_slow_body_is_not_waited_for(texts_url: str):
    host, port = texts_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 50\r\n\r\n{{".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_client_that_asks_too_often_has_to_wait(text_network: Network):
    limits = Limits(rate=0.1, burst=3)
    with front(text_network, Settings(limits=limits)) as url:
        answers = [call(url, body={"inputs": ["alpha"]}) for _ in range(4)]
    assert [a[0] for a in answers] == [200, 200, 200, 429]
    assert answers[3][1]["errors"][0]["field"] == "client"
    assert 1 <= int(answers[3][2]["retry-after"]) <= 10


def test_more_than_it_can_answer_at_once_gets_503(text_network: Network, monkeypatch):
    from scpl_ray.preprocess import Preprocessor

    held, gate, prepare = threading.Event(), threading.Event(), Preprocessor.texts

    def slow(self: Preprocessor, texts: Any) -> Any:
        held.set()
        assert gate.wait(20)
        return prepare(self, texts)

    monkeypatch.setattr(Preprocessor, "texts", slow)
    with (
        front(text_network, Settings(limits=Limits(rate=0, pending=1))) as url,
        ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(call, url, body={"inputs": ["alpha"]})
        assert held.wait(20)
        status, answer, headers = call(url, body={"inputs": ["alpha"]})
        assert (status, answer["errors"][0]["field"], headers["retry-after"]) == (
            503,
            "server",
            "1",
        )
        assert call(url, "/health")[0] == 200, "health is answered still"
        gate.set()
        assert first.result()[0] == 200


def test_with_a_token_nothing_is_answered_without_it(text_network: Network):
    body = {"inputs": ["alpha"]}
    with front(text_network, Settings(token=TOKEN, limits=OPEN)) as url:
        for wrong in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
            status, answer, headers = call(url, body=body, headers={"Authorization": wrong})
            assert status == 401 and headers["www-authenticate"] == "Bearer"
            assert answer["errors"][0]["field"] == "header Authorization"
        for path in ("/schema", "/openapi.json", "/nothing"):
            assert call(url, path)[0] == 401
        assert call(url, body=body, headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        status, shown, _ = call(url, "/")
        assert status == 200 and TOKEN not in shown
        assert call(url, "/health")[0] == 200


def test_schemas_say_what_is_taken_and_given(texts_url: str):
    _, schema, _ = call(texts_url, "/schema")
    body = {"inputs": ["alpha beta"], "threshold": 0.99}
    jsonschema.validate(body, schema["request"])
    _, answer, _ = call(texts_url, body=body)
    jsonschema.validate(answer, schema["answer"])
    assert schema["request"]["properties"]["inputs"]["maxItems"] == 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"inputs": ["a" * 51]}, schema["request"])
    _, refused, _ = call(texts_url, body={})
    jsonschema.validate(refused, schema["errors"])
    _, api, _ = call(texts_url, "/openapi.json")
    assert {"200", "400", "413", "422", "429", "503"} <= set(
        api["paths"]["/predict"]["post"]["responses"]
    )


def test_images_are_answered_as_predict_answers_them(image_network: Network, images_url: str):
    files = [digit(0), digit(1, "BMP"), digit(2, "GIF")]
    predictor = Predictor(Path(image_network.config.output.dir) / "image")
    expected = predictor.images([Image.open(io.BytesIO(file)) for file in files])
    text = [base64.b64encode(file).decode() for file in files]
    text[0] = f"data:image/png;base64,{text[0]}"
    ways = [
        call(images_url, body={"inputs": text, "early_exit": False}),
        call(images_url, "/predict", *form(*files, early_exit="false")),
    ]
    for status, answer, _ in ways:
        assert status == 200, answer
        for found, wanted in zip(answer["answers"], expected, strict=True):
            assert found["label"] == wanted.label and found["exit"] == wanted.stage
            assert found["probability"] == pytest.approx(wanted.probability, abs=1e-5)
            assert [e["stage"] for e in found["exits"]] == image_network.exits


def test_bad_images_are_named(images_url: str):
    good = base64.b64encode(digit(0)).decode()
    status, answer, _ = call(images_url, body={"inputs": [good, "@", "aGVsbG8="]})
    assert status == 422
    assert [e["field"] for e in answer["errors"]] == ["inputs[1]", "inputs[2]"]
    status, answer, _ = call(images_url, "/predict", *form(digit(0), b"hello"))
    assert (status, answer["errors"][0]["field"]) == (422, "inputs[1]")
    status, answer, _ = call(images_url, "/predict", *form(threshold="0.5"))
    assert (status, answer["errors"][0]["field"]) == (422, "files")
    status, answer, _ = call(images_url, "/predict", *form(digit(0), threshold="2"))
    assert (status, answer["errors"][0]["field"]) == (422, "threshold")
    status, answer, _ = call(images_url, "/predict", *form(*[digit(0)] * 4))
    assert (status, answer["errors"][0]["field"]) == (400, "body")


@pytest.mark.parametrize("kind", ["text", "image"])
def test_malformed_requests(texts_url: str, images_url: str, kind: str):
    seen, faults = fuzz(texts_url if kind == "text" else images_url, kind, 100, seed=1)
    assert faults == []
    assert sum(seen.values()) == 100 and len({k.split(":")[0] for k in seen}) >= 8


def test_the_page_takes_an_image_and_says_which_exit_answered(
    browser: Any, images_url: str, tmp_path: Path
):
    from selenium.webdriver.common.by import By

    (tmp_path / "zero.png").write_bytes(digit(0))
    browser.get(images_url)
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "zero.png"))
    shown = browser.find_element(By.ID, "answer")
    until(shown.is_displayed, "the answer")
    _, answer, _ = call(images_url, "/predict", *form(digit(0)))
    (one,) = answer["answers"]
    assert shown.find_element(By.CLASS_NAME, "label").text.startswith(one["label"])
    assert f"Exit {one['exit']} answered" in shown.text
    assert shown.find_elements(By.CSS_SELECTOR, ".answered")
    (tmp_path / "no.png").write_bytes(b"hello")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "no.png"))
    error = browser.find_element(By.ID, "error")
    until(error.is_displayed, "the error")
    assert "not an image" in error.text and not shown.is_displayed()


def test_the_page_asks_for_the_token(browser: Any, text_network: Network):
    from selenium.webdriver.common.by import By

    with front(text_network, Settings(token=TOKEN, limits=OPEN)) as url:
        browser.get(url)
        browser.find_element(By.ID, "text").send_keys("alpha beta")
        browser.find_element(By.ID, "ask").click()
        error = browser.find_element(By.ID, "error")
        until(error.is_displayed, "the error")
        assert "Bearer" in error.text
        browser.find_element(By.ID, "token").send_keys(TOKEN)
        browser.find_element(By.ID, "ask").click()
        until(browser.find_element(By.ID, "answer").is_displayed, "the answer")
