"""What a job says of itself: listens as a reporter, answers as plain values, and keeps the log."""

from __future__ import annotations

import dataclasses
import io
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpl_ray.engine.base import Done, Failure
from scpl_ray.exits import ExitResult
from scpl_ray.jobs.record import JobRecord, write_record
from scpl_ray.report import PlainReporter, Plan, Reporter

_LOG_LINES = 200
_RECORD_EVERY_S = 2.0


class _Log(io.TextIOBase):
    """Keeps the last lines, and writes all to a file once there is one."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._early: list[str] = []
        self._file: Any = None

    def write(self, text: str) -> int:
        """Takes in text; `print` gives whole lines."""
        if text != "\n":
            stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}"
            self.lines.append(stamped)
            if self._file is None:
                self._early.append(stamped)
            else:
                self._file.write(stamped + "\n")
        return len(text)

    def into(self, path: Path, append: bool) -> None:
        """Writes what came so far to a file, and what comes."""
        self._file = path.open("a" if append else "w", encoding="utf-8", buffering=1)
        self._file.writelines(line + "\n" for line in self._early)
        self._early = []

    def end(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Board(Reporter):
    """The job's own listener.

    Args:
        record: the job's record; kept up to date on this machine.
    """

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.phase = "starting"
        self.exits: dict[int, float] = {}
        self.requests: Callable[[], list[dict[str, Any]]] = list
        self.failures: Callable[[], list[Failure]] = list
        self.log = _Log()
        self._plain = PlainReporter(self.log)
        self._written = 0.0
        write_record(record)

    def keep_log(self, path: Path, append: bool = False) -> None:
        """Where the log shall be, now that the run has a folder; appended to if it goes on."""
        self.log.into(path, append)

    def update(self, **changes: Any) -> None:
        """Changes the record and writes it."""
        self.record = dataclasses.replace(self.record, **changes)
        self._written = time.monotonic()
        write_record(self.record)

    def notice(self, text: str) -> None:
        """Into the log."""
        self._plain.notice(text)

    def info(self, text: str) -> None:
        """Into the log."""
        self._plain.info(text)

    def started(self, plan: Plan) -> None:
        """Training begins."""
        self.phase = "training"
        self._plain.started(plan)
        self.update(progress=self._progress())

    def changed(self, plan: Plan) -> None:
        """Stages have joined or left."""
        self._plain.changed(plan)

    def step(self, epoch: int, done: Done) -> None:
        """A step has passed all stages."""
        self._plain.step(epoch, done)
        if time.monotonic() - self._written > _RECORD_EVERY_S:
            self.update(progress=self._progress())

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """Accuracy per exit."""
        self._plain.evaluated(split, epoch, exits)
        if split == "validation":
            self.exits = {e.stage: e.accuracy for e in exits}

    def close(self) -> None:
        """Ends the log."""
        self.log.end()

    def _progress(self) -> dict[str, Any]:
        recent = self._plain.recent
        if recent is None:
            return {}
        plan = recent.plan
        return {
            "epoch": recent.epoch + 1,
            "epochs": plan.epochs,
            "step": recent.steps,
            "steps": plan.epochs * plan.steps_per_epoch,
            "stages": plan.training,
        }

    def view(self) -> dict[str, Any]:
        """What `scpl-ray status --json` prints: plain values only."""
        recent = self._plain.recent
        record = self.record
        status: dict[str, Any] = {
            "id": record.id,
            "name": record.name,
            "phase": self.phase,
            "user": record.user,
            "host": record.host,
            "pid": record.pid,
            "folder": record.folder,
            "address": record.address,
            "started_at": record.started_at,
            "running_s": round(time.time() - record.started_at, 1),
            "changes": self.requests(),
            "failures": [dataclasses.asdict(failure) for failure in self.failures()],
            "log": list(self.log.lines),
        }
        if recent is None:
            return status | {"stages": []}
        plan, stages = recent.plan, []
        for position, spec in enumerate(plan.stages):
            row = recent.stage(spec.number)
            stages.append(
                {
                    "stage": spec.number,
                    "layers": list(spec.layers),
                    "state": "training" if position < plan.training else "left",
                    "loss": round(row.loss, 4) if row.steps else None,
                    "exit_accuracy": row.accuracy,
                    "validation_accuracy": self.exits.get(spec.number),
                    "busy": round(row.busy, 3) if row.steps else None,
                    "memory_mib": round(row.memory_mib, 1),
                }
            )
        return status | {
            "title": plan.title,
            **self._progress(),
            "samples_per_second": round(recent.samples_per_second(), 1),
            "eta_s": round(recent.eta_s(), 1),
            "stages": stages,
        }
