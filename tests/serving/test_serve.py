"""`scpl-ray serve` as a user runs it: the stages on Ray Serve, killed in the midst, ended by Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from scpl_ray.early_exit import Rule
from scpl_ray.exiting.temperatures import ExitTemperature, save
from scpl_ray.network import Network
from scpl_ray.serving.trail import Group, Trail
from tests.helpers import cli, no_process_left, until
from tests.serving.servers import Command, call, replicas_of, trails

TEXTS = [
    f"{a} {b} {c}"
    for a in ("alpha", "zeta", "xi", "mu")
    for b in ("beta gamma", "nu", "eta kappa lambda iota")
    for c in ("", "delta", "xi xi")
]


TEMPERATURES = {1: 0.5, 2: 2.0}


@pytest.fixture(scope="module")
def server(text_run: Path) -> Iterator[Command]:
    told = {"loss_before": 1, "loss_after": 1, "ece_before": 0, "ece_after": 0}
    exits = [ExitTemperature(stage=k, temperature=t, **told) for k, t in TEMPERATURES.items()]
    save(text_run / "runs/text", exits, samples=1)
    command = Command(text_run, "text", "--rate", "0", "--max-batch", "8", "--max-inputs", "100")
    yield command
    if command.process.poll() is None:
        command.process.kill()
        command.process.wait()


@pytest.fixture(scope="module")
def url(server: Command) -> str:
    return server.url()


@pytest.fixture(scope="module")
def threshold(text_network: Network) -> float:
    """One that lets about half leave at the first exit, and that rounding does not cross."""
    sure = sorted(trail[0].certainty for trail in expected(text_network, TEXTS, 2.0))
    middle = range(len(sure) // 4, 3 * len(sure) // 4)
    at = max(middle, key=lambda i: sure[i + 1] - sure[i])
    assert sure[at + 1] - sure[at] > 1e-4
    return (sure[at] + sure[at + 1]) / 2


@torch.no_grad()
def expected(network: Network, texts: list[str], threshold: float) -> list[Trail]:
    """What one process says, text by text."""
    activations = [network.activation(network.encode([text])) for text in texts]
    rule = Rule(threshold, temperatures=TEMPERATURES)
    return [trails(network, Group(a, rule, 0.0))[0] for a in activations]


def check(network: Network, answers: list[dict[str, Any]], wanted: list[Trail]) -> None:
    labels = network.info.label_names
    for answer, trail in zip(answers, wanted, strict=True):
        assert answer["exit"] == trail[-1].stage
        assert len(answer["exits"]) == len(trail)
        for exit, own in zip(answer["exits"], trail, strict=True):
            assert exit["certainty"] == pytest.approx(own.certainty, abs=1e-4)
            assert exit["answers"] == own.answers
            best = max(range(len(labels)), key=own.probabilities.__getitem__)
            assert exit["label"] == labels[best]


def test_a_request_is_answered_as_one_process_answers(url: str, text_network: Network, threshold):
    status, answer, _ = call(url, body={"inputs": TEXTS, "threshold": threshold})
    assert status == 200, answer
    wanted = expected(text_network, TEXTS, threshold)
    assert {trail[-1].stage for trail in wanted} == {1, 2}, "some leave early, some do not"
    check(text_network, answer["answers"], wanted)


def test_requests_that_share_batches_get_each_their_own(url: str, text_network: Network, threshold):
    """Different lengths, thresholds and numbers of samples at the same time."""
    asked = [
        (TEXTS[i : i + 1 + i % 4], [threshold, 0.0, 1.0][i % 3], i % 5 != 0)
        for i in range(len(TEXTS))
    ] * 2

    def ask(one: tuple[list[str], float, bool]) -> Any:
        texts, limit, early = one
        return call(url, body={"inputs": texts, "threshold": limit, "early_exit": early})

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, asked))
    for (texts, limit, early), (status, answer, _) in zip(asked, found, strict=True):
        assert status == 200
        check(
            text_network, answer["answers"], expected(text_network, texts, limit if early else 2.0)
        )


def test_health(url: str):
    assert call(url, "/health")[:2] == (200, {"status": "ok", "running": {"1": 1, "2": 1}})


def test_the_page_says_which_exit_answered_and_why(url: str, browser: Any, threshold: float):
    from selenium.webdriver.common.by import By

    browser.get(url + "/?text=alpha+beta+gamma")
    shown = browser.find_element(By.ID, "answer")
    until(shown.is_displayed, "the answer")
    (one,) = call(url, body={"inputs": ["alpha beta gamma"]})[1]["answers"]
    assert f"Exit {one['exit']} answered" in shown.text and one["label"] in shown.text
    assert len(shown.find_elements(By.CLASS_NAME, "exit")) == 2
    browser.execute_script("document.getElementById('threshold').value = 0")
    browser.find_element(By.ID, "ask").click()
    until(lambda: "Exit 1 answered" in shown.text and "1 stage did not run" in shown.text, "exit 1")
    assert "not run" in shown.find_elements(By.CLASS_NAME, "exit")[1].text
    browser.find_element(By.ID, "all").click()
    browser.find_element(By.ID, "ask").click()
    until(lambda: "All stages were run" in shown.text, "all stages")
    width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for size in (390, 1280):
        browser.set_window_size(size, 900)
        assert browser.execute_script(width) == 0, "nothing sticks out"
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert all(name.startswith(url) for name in loaded)
    said = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not [message for message in said if message.startswith(url)]


def test_a_killed_replica_makes_no_wrong_answer(
    server: Command, url: str, text_network: Network, threshold: float
):
    wanted = expected(text_network, TEXTS, threshold)
    ended, found = threading.Event(), []

    def load(place: int) -> None:
        while not ended.is_set():
            place = (place + 5) % len(TEXTS)
            body = {"inputs": [TEXTS[place]], "threshold": threshold}
            found.append((time.monotonic(), place, call(url, body=body)))

    before = replicas_of(server.process.pid)
    assert set(before) == {"stage-1", "stage-2"}
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, i) for i in range(4)]
        try:
            until(lambda: len(found) > 20, "answers before")
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            until(
                lambda: sum(at > killed + 1 and a[0] == 200 for at, _, a in found) > 20,
                "answers after",
                120,
            )
        finally:
            ended.set()
    for client in clients:
        client.result()
    after = replicas_of(server.process.pid)
    assert set(after) == set(before) and not set(after.values()) & set(before.values())
    assert {answer[0] for _, _, answer in found} <= {200, 503}
    for _, place, (status, answer, headers) in found:
        if status == 200:
            check(text_network, answer["answers"], [wanted[place]])
        else:
            assert answer["errors"][0]["field"] == "server" and headers["retry-after"]
    until(lambda: call(url, "/health")[1]["status"] == "ok", "health")


def test_ctrl_c_leaves_nothing(server: Command, url: str, text_run: Path):
    assert server.end() == 130
    assert "nothing is left running" in server.said and "Traceback" not in server.said
    no_process_left(text_run, limit_s=20)


def test_what_is_wrong_is_said_before_anything_starts(text_run: Path):
    import socket

    def refused(*options: str) -> str:
        result = cli("serve", *options, cwd=text_run)
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
        return str(result.stderr)

    assert "--token" in refused("text", "--host", "0.0.0.0")
    assert "Did you mean 'text'" in refused("tex")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in refused("text", "--port", str(port))
