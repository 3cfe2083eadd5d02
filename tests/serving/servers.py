"""A small client, and servers of both kinds: the real command, and the front alone in a thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from scpl_ray.network import Network
from scpl_ray.serving.app import Served, make_app
from scpl_ray.serving.settings import Settings
from scpl_ray.serving.trail import ExitAnswer, Group, Trail
from tests.helpers import until

JSON = {"Content-Type": "application/json"}


def call(
    url: str,
    path: str = "/predict",
    body: Any = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, Any, dict[str, str]]:
    """One request: (status, JSON or text, headers). A body that is not bytes is sent as JSON."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), JSON | (headers or {})
        connection.request(method or ("POST" if body else "GET"), path, body, headers or {})
        response = connection.getresponse()
        content = response.read().decode()
        told = {k.lower(): v for k, v in response.getheaders()}
        is_json = told.get("content-type", "").startswith("application/json")
        return response.status, json.loads(content) if is_json else content, told
    finally:
        connection.close()


class Command:
    """`scpl-ray serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.log = folder / "serve.log"
        line = [sys.executable, "-m", "scpl_ray", "serve", *options, "--port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                line, cwd=folder, stdout=log, stderr=log, env=os.environ | (env or {})
            )

    @property
    def said(self) -> str:
        """Both of its outputs."""
        return self.log.read_text()

    def url(self) -> str:
        """Waits until it answers."""
        until(lambda: "Ctrl-C" in self.said or self.process.poll() is not None, "serving", 150)
        found = re.search(r"at (http://\S+)", self.said)
        assert found is not None, self.said
        return found[1]

    def end(self) -> int:
        """Ends it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextlib.contextmanager
def front(network: Network, settings: Settings) -> Iterator[str]:
    """The front alone, over a network in this process."""
    exits = network.exits

    async def ask(group: Group) -> list[Trail]:
        return trails(network, group)

    served = Served(
        "try",
        network.info,
        _rule(settings),
        exits,
        len(exits),
        ask,
        lambda: dict.fromkeys(exits, 1),
    )
    config = uvicorn.Config(make_app(served, settings), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the front")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def trails(network: Network, group: Group) -> list[Trail]:
    """What `leave_early` says of a group, in the form in which the stages say it."""
    from scpl_ray.early_exit import entropy, leave_early

    # An exit that may not answer is not asked by `leave_early`; the stages ask it all the same.
    rule = group.rule if group.rule.exits is None else replace(group.rule, exits=None, threshold=2)
    answers = leave_early(network, group.activation, rule)
    found: list[Trail] = [[] for _ in answers.stages]
    for stage, (rows, logits) in sorted(answers.seen.items()):
        measured = logits.softmax(1).amax(1)
        if group.rule.measure == "entropy":
            measured = entropy(logits)
        for row, own, certainty in zip(
            rows.tolist(), logits.softmax(1).tolist(), measured.tolist(), strict=True
        ):
            done = int(answers.stages[row]) == stage
            found[row].append(ExitAnswer(stage, own, certainty, done))
    return found


def _rule(settings: Settings) -> Any:
    from scpl_ray.early_exit import Rule

    return Rule(settings.threshold, settings.measure)  # type: ignore[arg-type]


def replicas_of(pid: int) -> dict[str, int]:
    """Process ids of the replicas that a server has, by the stage's name."""
    import psutil

    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            match = re.match(r"ray::ServeReplica:scpl-ray:(stage-\d+)", process.name()) or re.match(
                r"ray::ServeReplica:scpl-ray:(stage-\d+)", " ".join(process.cmdline())
            )
            if match:
                found[match[1]] = process.pid
    return found
