"""Draws requests that are malformed in many ways."""

from __future__ import annotations

import base64
import io
import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Headers = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
        kind: what is wrong with it.
        raw: all that is sent.
        may_pass: whether it may happen to be well-formed.
        http: whether it is HTTP at all; what is not is answered by the HTTP library, in plain text.
    """

    kind: str
    raw: bytes
    may_pass: bool = False
    http: bool = True


class Fuzzer:
    """Draws requests.

    Args:
        kind: "text" or "image": what the server takes.
        seed: of the draw.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.draw = kind, random.Random(seed)
        self.image = kind == "image"
        self.makers: list[Callable[[], Case]] = [
            self.wrong_types,
            self.broken_json,
            self.odd_json,
            self.content_types,
            self.paths,
            self.headers,
            self.not_http,
            self.multipart,
        ]
        if self.image:
            self.makers += [self.damaged_image, self.damaged_image, self.odd_image]

    def case(self) -> Case:
        """The next request."""
        return self.draw.choice(self.makers)()

    def good(self) -> dict[str, Any]:
        """A request that is answered."""
        one = "alpha beta" if not self.image else base64.b64encode(self.picture()).decode()
        return {"inputs": [one], "threshold": 0.5, "early_exit": True}

    def picture(self) -> bytes:
        """A small image file."""
        pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
        image = Image.fromarray(pixels)
        kind = self.draw.choice(["PNG", "JPEG", "GIF", "BMP", "WEBP"])
        made = io.BytesIO()
        image.convert("RGB" if kind == "WEBP" else "L").save(made, kind)
        return made.getvalue()

    def value(self) -> Any:
        """Something that is nowhere right."""
        d = self.draw
        return d.choice(
            [
                None, -1, 2.5, 10**400, -0.0, [], {}, [[]], {"a": {}}, "", "x" * d.randint(1, 99),
                "\u0000", [None], [1, "a"], ["ok", []], "9" * 5000, [""], ["!!!"], True, 1e308,
                ["\ufeff", "\u202e"], {"inputs": []}, ["a"] * 1000, ["x" * 30_000],
            ]
        )  # fmt: skip

    def wrong_types(self) -> Case:
        body = self.good()
        for _ in range(self.draw.randint(1, 2)):
            key = self.draw.choice([*body, "inputs", "treshold", "", "__proto__", "x" * 500])
            body[key] = self.value()
            if self.draw.random() < 0.2:
                body.pop(self.draw.choice(list(body)), None)
        whole: Any = body if self.draw.random() < 0.9 else self.value()
        return Case("wrong types", self.post(json.dumps(whole).encode()), may_pass=True)

    def broken_json(self) -> Case:
        body = self.damaged(json.dumps(self.good()).encode(), self.draw.randint(1, 8))
        return Case("broken JSON", self.post(body), may_pass=True)

    def damaged(self, content: bytes, times: int) -> bytes:
        """Content with some bytes changed, added and lost."""
        made = bytearray(content)
        for _ in range(times):
            place = self.draw.randrange(len(made) + 1)
            kept = place + self.draw.choice([0, 0, 1, 1, 1, 5])
            made[place:kept] = bytes([self.draw.randrange(256)] * self.draw.randint(0, 1))
        return bytes(made)

    def odd_json(self) -> Case:
        deep = self.draw.choice([100, 1000, 50_000])
        body = self.draw.choice(
            [
                b"", b" ", b"null", b"[" * deep, b'{"inputs":' * deep, b'{"inputs":[NaN]}',
                b'{"inputs":["a"],"threshold":NaN}', b'{"inputs":["a"],"threshold":Infinity}',
                b'{"inputs":["a"],"threshold":1e999}', b'{"inputs":["\\ud800"]}',
                b'{"inputs":["\\udc00\\ud800"]}', b'{"inputs":["\xff\xfe"]}', b"\xef\xbb\xbf{}",
                '{"inputs":["a"]}'.encode("utf-16"), b'{"inputs":["a",]}', b"{'inputs':['a']}",
                b'{"inputs":["a"]}{"inputs":["b"]}', b'{"inputs":["\x00"]}',
                b'{"inputs":["a"],"threshold":-' + b"9" * 9000 + b"}", b'{"inputs":["\\u12"]}',
            ]
        )  # fmt: skip
        return Case("odd JSON", self.post(body))

    def content_types(self) -> Case:
        kinds = [
            "", "text/plain", "application/xml", "application/json\t;;;=", "a" * 1000, "multipart/",
            "application/x-www-form-urlencoded", "APPLICATION/JSONP", "multipart/form-data",
            "multipart/form-data; boundary=", 'multipart/form-data; boundary="\\"', "\xe4/\xf6",
            "multipart/form-data; boundary=" + "b" * 300, "application/json, text/plain",
        ]  # fmt: skip
        head = {"Content-Type": self.draw.choice(kinds)}
        return Case("content type", self.post(json.dumps(self.good()).encode(), head), True)

    def paths(self) -> Case:
        path = self.draw.choice(
            [
                "/nothing", "/predict/", "/predict/..", "//predict", "/../../etc/passwd", "/%00",
                "/%ff%fe", "/predict%2f", "/" + "a" * 5000, "/health/x", "/docs", "/?" + "q=1&" * 900,
                "/-/healthz", "/predict;x", "/\u00e4".encode().decode("latin-1"), "*",
            ]
        )  # fmt: skip
        method = self.draw.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
        # httptools knows neither.
        http = method != "FOO" and path.isascii()
        return Case("path or method", self.request(method, path, {}, b""), True, http)

    def headers(self) -> Case:
        name = self.draw.choice(
            ["Authorization", "Host", "Expect", "Range", "Cookie", "Upgrade", "X-Forwarded-For",
             "Accept-Encoding", "Content-Encoding", "Transfer-Encoding", "Content-Length", "Origin"]
        )  # fmt: skip
        value = self.draw.choice(
            ["", "Bearer", "Bearer " + "\xff" * 20, "a" * 3000, "evil.example", "-5", "1e9", "chunked",
             "gzip", "bytes=0-", "99999999999999999999", "websocket", "%s%n{}", "100-continue"]
        )  # fmt: skip
        return Case(
            "header", self.post(json.dumps({"inputs": []}).encode(), {name: value}), http=False
        )

    def not_http(self) -> Case:
        d = self.draw
        raw = d.choice(
            [
                bytes(d.randrange(256) for _ in range(d.randint(1, 200))) + b"\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n", b"POST /predict HTTP/1.1\r\n\r\n{}", b"\r\n\r\n\r\n",
                b"GET /" + b"\x00" * 9 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
                self.chunked(b"zz\r\n{}\r\n0\r\n\r\n"), self.chunked(b"5\r\n{}\r\n0\r\n\r\n"),
                self.chunked(b"-1\r\n\r\n"), self.chunked(b"ffffffffffffffffff\r\n{}\r\n"),
            ]
        )  # fmt: skip
        return Case("not HTTP", raw, http=False)

    def multipart(self) -> Case:
        d, mark = self.draw, "".join(self.draw.choices(string.ascii_letters, k=12))
        content = d.choice([self.picture(), b"", b"hello", bytes(50)])
        disposition = d.choice(
            ['form-data; name="files"; filename="a.png"', 'form-data; name="files"', "form-data",
             'form-data; name="file"; filename="a"', "", "attachment", 'form-data; name="threshold"',
             'form-data; name="files"; filename="' + "x" * 2000 + '"', "\xff\xfe", 'name="files"']
        )  # fmt: skip
        part = f"Content-Disposition: {disposition}\r\n".encode("latin-1")
        part += d.choice([b"", b"Content-Type: image/png\r\n", b"Bad\r\n", b": x\r\n"])
        body = f"--{mark}\r\n".encode() + part + b"\r\n" + content + b"\r\n"
        body *= d.choice([1, 1, 1, 2, 70])
        body += d.choice([f"--{mark}--\r\n".encode(), b"", b"--", f"--{mark}".encode()])
        if d.random() < 0.3:
            body = body[: d.randrange(len(body))]
        kind = f"multipart/form-data; boundary={mark}"
        return Case("multipart", self.post(body, {"Content-Type": kind}), may_pass=True)

    def damaged_image(self) -> Case:
        content = self.picture()
        if self.draw.random() < 0.3:
            content = content[: self.draw.randrange(len(content))]
        content = self.damaged(content, self.draw.randint(0, 12))
        return self.of_image("damaged image", content)

    def odd_image(self) -> Case:
        d = self.draw
        made = io.BytesIO()
        choice = d.randrange(6)
        if choice == 0:  # a bomb: small file, many pixels
            Image.new("L", (d.choice([5000, 12_000]), 12_000)).save(made, "PNG")
        elif choice == 1:
            Image.fromarray(np.zeros((8, 8), np.uint16)).save(made, "PNG")
        elif choice == 2:
            Image.new("CMYK", (9, 5)).save(made, "JPEG")
        elif choice == 3:
            Image.new("P", (1, 1)).save(made, "GIF")
        elif choice == 4:
            Image.new("L", (8, 8)).save(made, d.choice(["TIFF", "PPM", "ICO", "TGA"]))
        else:
            made.write(d.choice([b"<svg/>", b"%PDF-1.4", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM"]))
        return self.of_image("odd image", made.getvalue())

    def of_image(self, kind: str, content: bytes) -> Case:
        """An image file, in one of three ways."""
        text = base64.b64encode(content).decode()
        if self.draw.random() < 0.5:
            mark = b"mmmmmmmm"
            head = b'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            body = b"--" + mark + b"\r\n" + head + content + b"\r\n--" + mark + b"--\r\n"
            form = {"Content-Type": "multipart/form-data; boundary=mmmmmmmm"}
            return Case(kind, self.post(body, form), may_pass=True)
        text = self.draw.choice(["", "data:image/png;base64,", "data:,", "data:x"]) + text
        return Case(kind, self.post(json.dumps({"inputs": [text]}).encode()), may_pass=True)

    def post(self, body: bytes, headers: Headers | None = None) -> bytes:
        """A POST of a body."""
        given = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        return self.request("POST", "/predict", given | (headers or {}), body)

    @staticmethod
    def request(method: str, path: str, headers: Headers, body: bytes) -> bytes:
        """The bytes of a request."""
        lines = {"Host": "127.0.0.1", "Connection": "close"} | headers
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        return head.encode("latin-1") + b"\r\n" + body

    @staticmethod
    def chunked(body: bytes) -> bytes:
        """A request with a body in chunks."""
        head = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        return Fuzzer.request("POST", "/predict", head, body)
