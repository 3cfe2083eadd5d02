"""A job in a folder of its own: its config, its driver, its processes, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

REPOSITORY = Path(__file__).parents[2]
NAME = "chaos"
STEPS_PER_EPOCH = 21  # of digits in batches of 64
_WHO = "who"  # tests.chaos.model writes it; not imported, for it imports torch
_TITLES = {
    "ray::StageActor": "stage",
    "ray::DataActor": "data",
    "ray::Mailbox": "mailbox",
    "ray::ParkedActor": "parked",
    "ray::": "other",
}
_LONGEST_FOLDER = 40  # Ray's sockets lie deep below it, and a socket's path has 107 bytes at most


def config(epochs: int, sleep_s: float, changes: bool = True) -> dict[str, Any]:
    """The config of a chaos run.

    Args:
        epochs: of 21 steps each.
        sleep_s: the least time that a step takes.
        changes: whether a stage joins, leaves and comes back.
    """
    steps = epochs * STEPS_PER_EPOCH
    grow, shrink, again = (max(1, round(steps * part)) for part in (0.25, 0.5, 0.75))
    elastic = {"grow_at": {"step": [grow, again]}, "shrink_at": {"step": [shrink]}}
    return {
        "data": {"source": "digits"},
        "model": {"factory": "tests.chaos.model:build", "options": {"sleep_s": sleep_s}},
        # Small heads: the time of a step is to be slept, not computed.
        "local": {
            "projection_head": {"hidden": 32, "out": 32},
            "exit_head": {"hidden": 32},
        },
        "optimizer": {"schedule": "cosine"},
        "train": {"epochs": epochs, "batch_size": 64, "clip_norm": 1.0, "select": "best"},
        "evaluate": {"batch_size": 32},
        "elastic": elastic | {"start_stages": 3} if changes else {},
        "fault_tolerance": {
            "checkpoint_every_s": 3.0,
            "snapshot_every_s": 1.0,
            "max_failures": None,
            "max_failures_per_stage": None,
            # Chance may kill the same stage at the same batch again and again.
            "max_failures_per_batch": 50,
        },
        "resources": {"threads": 1, "device": "cpu", "object_store_mib": 100},
        "output": {"dir": "runs", "tensorboard": False},
    }


@dataclass(frozen=True)
class Target:
    """A process of a job.

    Attributes:
        role: stage, standby, data, mailbox, parked, driver, raylet, gcs or other.
        process: it.
        layer: of a stage: the layer that it trains.
    """

    role: str
    process: psutil.Process
    layer: str = ""

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.role} {self.layer}".strip()


class Job:
    """One job.

    Args:
        folder: its working folder, made here; a short path.
        tree: its config.
        engine: ray or local.
    """

    def __init__(self, folder: Path, tree: dict[str, Any], engine: str = "ray") -> None:
        self.folder, self.engine = folder.resolve(), engine
        if len(str(self.folder)) > _LONGEST_FOLDER:
            raise ValueError(f"{self.folder}: too long a path for Ray's sockets; set TMPDIR=/tmp")
        self.temp = self.folder / "t"
        self.temp.mkdir(parents=True)
        (self.folder / "job.yaml").write_text(yaml.safe_dump(tree))
        self.log = self.folder / "driver.log"
        self.run = self.folder / "runs" / NAME
        self.metrics = self.run / "metrics.jsonl"
        self.driver: subprocess.Popen[bytes] | None = None
        self._shm_before = _shared_names()

    def start(self, resume: bool) -> None:
        """Starts the driver; its words go to driver.log."""
        line = self.command(resume)
        with self.log.open("ab") as log:
            log.write(f"--- {time.strftime('%H:%M:%S')} {' '.join(line[1:])}\n".encode())
            log.flush()
            self.driver = subprocess.Popen(
                line, cwd=self.folder, stdout=log, stderr=log, env=self.environment()
            )

    def command(self, resume: bool) -> list[str]:
        """The driver's command line."""
        line = [sys.executable, "-m", "scpl_ray", "train", "job.yaml", "--name", NAME]
        return [*line, "--engine", self.engine, *(["--resume"] if resume else [])]

    def environment(self) -> dict[str, str]:
        """The job's environment: state and temporary files in its own folder."""
        return os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "TMPDIR": str(self.temp),
            "PYTHONFAULTHANDLER": "1",
            "COLUMNS": "160",
        }

    def targets(self) -> dict[str, list[Target]]:
        """The living driver's processes by role, each in a definite order.

        Those of a driver that was killed before, which still are about to end, are not among them.
        """
        assert self.driver is not None
        found: dict[str, list[Target]] = {}
        with contextlib.suppress(psutil.Error):
            driver = psutil.Process(self.driver.pid)
            if driver.status() == psutil.STATUS_ZOMBIE:
                return {}
            found["driver"] = [Target("driver", driver)]
            for process in driver.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    target = self._target(process)
                    found.setdefault(target.role, []).append(target)
        for targets in found.values():
            targets.sort(key=lambda t: (t.layer, t.process.pid))
        return found

    def _target(self, process: psutil.Process) -> Target:
        if process.status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(process.pid)
        words = process.cmdline()
        title = words[0] if words else ""
        for prefix, role in _TITLES.items():
            if title.startswith(prefix):
                layer = self._layer(process) if role == "stage" else ""
                return Target(role if role != "stage" or layer else "standby", process, layer)
        name = Path(title).name
        role = {"raylet": "raylet", "gcs_server": "gcs"}.get(name, "other")
        return Target(role, process)

    def _layer(self, process: psutil.Process) -> str:
        mark = self.folder / _WHO / str(process.pid)
        try:
            young = mark.stat().st_mtime < process.create_time() - 1
            return "" if young else mark.read_text()
        except OSError:
            return ""

    def processes(self) -> Iterator[psutil.Process]:
        """All living processes in the job's folder, those of its killed drivers too."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                dead = process.status() == psutil.STATUS_ZOMBIE
                if not dead and Path(process.cwd()).is_relative_to(self.folder):
                    yield process

    def end_driver(self) -> None:
        """Ends the driver, if it lives, after it has said in the log where it stands."""
        if self.driver is None or self.driver.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.driver.pid, signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.driver.wait(3)
        self.driver.kill()
        self.driver.wait()

    def end(self) -> None:
        """Ends what is left of the job at once; only processes in its folder."""
        self.end_driver()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def leftovers(self, wait_s: float) -> list[str]:
        """Says what an ended job has left: processes, shared memory, temporary files.

        Args:
            wait_s: how long its processes may take to end.
        """
        deadline = time.monotonic() + wait_s
        while (alive := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.3)
        left = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                left.append(f"process {process.pid} {' '.join(process.cmdline())[:60]}")
        left += [f"/dev/shm/{name}" for name in self._shared_memory()]
        left += [f"t/{path.name}" for path in self.temp.iterdir() if path.name != "ray"]
        left += [str(path.relative_to(self.folder)) for path in self.run.rglob("*.tmp")]
        return left

    def _shared_memory(self) -> list[str]:
        """New segments that no living process of someone else holds."""
        new = _shared_names() - self._shm_before
        for process in psutil.process_iter() if new else ():
            with contextlib.suppress(psutil.Error, OSError):
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                new = {name for name in new if f"/dev/shm/{name}" not in maps}
        return sorted(name for name in new if Path("/dev/shm", name).exists())

    def summary(self) -> dict[str, Any]:
        """Its summary.json; empty if there is none."""
        path = self.run / "summary.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def remove(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _shared_names() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}
