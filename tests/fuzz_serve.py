"""Malformed requests against a server: none may crash it, and none may get a 500.

scpl-ray serve RUN --rate 0 --port 8000
python -m tests.fuzz_serve http://127.0.0.1:8000 --kind text --requests 10000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections import Counter

from tests.serving.fuzzer import Case, Fuzzer

_LONGEST = 10.0  # seconds that a refusal may take


def send(address: tuple[str, int], case: Case) -> tuple[int, bytes]:
    """Sends bytes, and reads an answer: (status, body); status 0 where none came."""
    with socket.create_connection(address, timeout=_LONGEST + 30) as connection:
        answer = b""
        # A server may wait for the rest of what is no whole request; it need not wait for us.
        patience = connection.gettimeout() if case.http else 0.3
        try:
            connection.sendall(case.raw)
            connection.settimeout(patience)
            while part := connection.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused before all of it was sent
        except TimeoutError:
            if case.http:
                raise
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return 0, b""
    return int(head.split(b" ", 2)[1]), body


def fault(case: Case, status: int, body: bytes) -> str:
    """What is wrong with an answer; empty: nothing."""
    if status == 0:
        return "" if not case.http else "no answer"
    if status >= 500:
        return f"status {status}"
    if status < 400:
        return "" if case.may_pass or not case.http else f"status {status} to a malformed request"
    try:
        errors = json.loads(body)["errors"]
        named = all(error["field"] and error["message"] for error in errors)
    except (ValueError, KeyError, TypeError):
        return "" if not case.http else f"status {status} without a JSON body that says why"
    return "" if errors and named else f"status {status} does not name the field"


def fuzz(url: str, kind: str, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Sends malformed requests one after another: (answers by what was sent, faults)."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    fuzzer = Fuzzer(kind, seed)
    seen: Counter[str] = Counter()
    faults = []
    for index in range(count):
        case = fuzzer.case()
        begun = time.monotonic()
        status, body = send((host, int(port)), case)
        seen[f"{case.kind}: {status or 'none'}"] += 1
        wrong = fault(case, status, body)
        if not wrong and time.monotonic() - begun > _LONGEST:
            wrong = f"{time.monotonic() - begun:.1f} s"
        if wrong:
            faults.append(f"{index} {case.kind}: {wrong}: {case.raw[:300]!r} -> {body[:300]!r}")
    return seen, faults


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--kind", choices=["text", "image"], default="text")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    seen, faults = fuzz(options.url, options.kind, options.requests, options.seed)
    for what, count in sorted(seen.items()):
        print(f"{count:6}  {what}")
    print(f"{options.requests} requests in {time.monotonic() - begun:.0f} s, {len(faults)} faults")
    for line in faults[:20]:
        print(line)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
