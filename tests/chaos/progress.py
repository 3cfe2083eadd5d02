"""Follows metrics.jsonl of a running job, also over a resume, which cuts the file back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """A finished step.

    Attributes:
        step: its number; after a resume a number may come again.
        finished_at: when the last stage was done with it, in seconds since 1970.
    """

    step: int
    finished_at: float


def read_step(line: str) -> Step | None:
    """Reads one line; None if it is not of a step."""
    row: dict[str, Any] = json.loads(line)
    if row.get("kind") != "step":
        return None
    return Step(row["step"], max(stage["finished_at"] for stage in row["stages"]))


class Progress:
    """The steps that a job has finished.

    Args:
        path: metrics.jsonl; need not be there yet.

    Attributes:
        steps: every step in the order in which it was first seen, redone ones too.
        last: the newest step's number; -1 before the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Step] = []
        self.last = -1
        self._offset = 0
        self._tail = b""
        self._known: set[Step] = set()

    def poll(self) -> list[Step]:
        """Reads what is new; returns the new steps."""
        try:
            with self.path.open("rb") as file:
                if self._was_cut(file):
                    self._offset, self._tail = 0, b""
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        end = content.rfind(b"\n") + 1
        if end == 0:
            return []
        self._offset += end
        self._tail = (self._tail + content[:end])[-64:]
        new = []
        for line in content[:end].decode().splitlines():
            step = read_step(line)
            if step is None:
                continue
            self.last = step.step
            if step not in self._known:
                self._known.add(step)
                new.append(step)
        self.steps += new
        return new

    def _was_cut(self, file: Any) -> bool:
        """Whether what was read last no longer stands where it stood."""
        file.seek(max(0, self._offset - len(self._tail)))
        return bool(file.read(len(self._tail)) != self._tail)


def wrong_steps(path: Path, count: int) -> str:
    """Says what is wrong with the steps of a finished run; empty if each is there once."""
    lines = path.read_text().splitlines() if path.is_file() else []
    steps = [s.step for s in map(read_step, lines) if s is not None]
    if steps == list(range(count)):
        return ""
    missing = sorted(set(range(count)) - set(steps))
    twice = sorted({s for s in steps if steps.count(s) > 1})
    beyond = sorted(set(steps) - set(range(count)))
    return (
        f"metrics.jsonl: {len(steps)} step lines for {count} steps; missing {missing[:9]}, "
        f"more than once {twice[:9]}, beyond the end {beyond[:9]}, "
        f"{'in order' if steps == sorted(steps) else 'out of order'}"
    )
