"""What tests share: small real data, small configs, the real command line."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpl_ray.config import load_config
from scpl_ray.elastic.request import ENDED, Request
from scpl_ray.engine.base import Done
from scpl_ray.job import Job
from scpl_ray.report import Reporter
from scpl_ray.start import Start

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
]


def write_texts(path: Path, samples: int = 150, seed: int = 0) -> Path:
    """Writes a JSON Lines file of two classes that differ in their words; lengths vary."""
    draw = random.Random(seed)
    rows = []
    for i in range(samples):
        label = i % 2
        pool = WORDS[:9] if label else WORDS[5:]
        words = [draw.choice(pool) for _ in range(draw.randint(2, 14))]
        rows.append(json.dumps({"text": " ".join(words), "label": ["neg", "pos"][label]}))
    path.write_text("\n".join(rows) + "\n")
    return path


def small_config(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A config that trains in a second or two; `changes` use `__` for a dot."""
    tree: dict[str, Any] = {
        "data": {"source": "file", "path": str(data), "max_len": 16},
        "model": {"kind": "transformer", "layers": 3, "width": 16, "heads": 2, "dropout": 0.2},
        "train": {"epochs": 2, "batch_size": 32, "clip_norm": 1.0},
        "resources": {"threads": 1, "device": "cpu"},
        "output": {"dir": str(out), "tensorboard": False},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def cli(
    *args: str | Path, cwd: Path, timeout: float = 120, env: dict[str, str] | None = None
) -> Any:
    """Runs the real command line as a subprocess."""
    return subprocess.run(
        [sys.executable, "-m", "scpl_ray", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"COLUMNS": "200"} | (env or {}),
    )


def train_process(cwd: Path, *args: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """`scpl-ray train job.yaml`, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scpl_ray", "train", "job.yaml", *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of all processes that run in a folder: a job's Ray and its actors."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == folder:
                found.append(" ".join(process.cmdline()) or process.name())
    return found


def no_process_left(*folders: Path, limit_s: float) -> None:
    """Waits for the end of all that runs in the folders; Ray's own end a moment after their driver.

    A worker of Ray ends when it sees that its raylet has, and on a busy machine that takes seconds.
    """

    def left() -> list[str]:
        return [line.strip() for folder in folders for line in processes_in(folder)]

    with contextlib.suppress(AssertionError):  # the one below names them
        until(lambda: not left(), "the end of all processes", limit_s)
    assert left() == []


Condition = Callable[[Job, int], bool]
Action = Callable[[Job], object]


class Commander(Reporter):
    """Gives a running job of this process commands, one after another.

    `script` holds what is waited for, asked after each step, and what is done then.
    """

    def __init__(self, script: list[tuple[Condition, Action]]) -> None:
        self.script = list(script)
        self.job: Job | None = None
        self.steps: list[int] = []
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def step(self, epoch: int, done: Done) -> None:
        step = done.stats[0].step
        self.steps.append(step)
        assert self.job is not None
        while self.script and self.script[0][0](self.job, step):
            self.script.pop(0)[1](self.job)


def run_job(tree: dict[str, Any], script: list[tuple[Condition, Action]] | None = None) -> Any:
    """Trains a config in this process, with commands on the way: (run, commander)."""
    commander = Commander(script or [])
    job = Job(Start(load_config(tree), True), commander)
    commander.job = job
    run = job.train()
    assert commander.script == [], "the script came to its end"
    return run, commander


def at(step: int) -> Condition:
    """The step has been finished."""
    return lambda job, now: now >= step


def ended(count: int) -> Condition:
    """So many requests have come to an end."""
    return lambda job, now: sum(v["state"] in ENDED for v in job.control.views()) >= count


def grow(**options: Any) -> Action:
    """Asks for a stage."""
    return lambda job: job.control.handle(
        Request(f"g{time.monotonic_ns()}", "grow", **{"reason": "test", **options})
    )


def shrink() -> Action:
    """Takes the last stage away."""
    return lambda job: job.control.handle(Request(f"s{time.monotonic_ns()}", "shrink"))


def stop(job: Job) -> None:
    """Ends the job after a checkpoint."""
    job.control.stop()


def until(true: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
    """Waits for something and returns it."""
    deadline = time.monotonic() + limit_s
    while not (value := true()):
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:g} s"
        time.sleep(0.1)
    return value


class Fork:
    """The command line in a process of its own that begins with all imports done.

    For the local engine only. Its words go to a file; it is killed like any other process.
    """

    def __init__(self, *args: str | Path, cwd: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        # Heeded by the first one only.
        context.set_forkserver_preload(["tests.helpers", "scpl_ray.engine.local", *_IMPORTED_LATE])
        self.file = cwd / f"said-{time.monotonic_ns()}.txt"
        line = ["scpl-ray", *map(str, args)]
        environment = dict(os.environ) | {"COLUMNS": "200"}
        self.process = context.Process(target=_main, args=(line, cwd, environment, self.file))
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """Waits for its end and returns the exit code."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, self.said
        return self.process.exitcode

    def end(self) -> str:
        """Waits for a good end and returns what it said."""
        assert self.wait() == 0, self.said
        return self.said

    @property
    def said(self) -> str:
        """Both of its outputs."""
        return self.file.read_text() if self.file.exists() else ""


_IMPORTED_LATE = ["scpl_ray.screen", "sklearn.datasets", "torch.utils.tensorboard"]


def _main(line: list[str], cwd: Path, environment: dict[str, str], file: Path) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = line
    runpy.run_module("scpl_ray", run_name="__main__", alter_sys=True)
