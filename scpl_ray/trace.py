"""A timeline of every stage over real time: `train --trace`.

`trace.json` is in Google's Trace Event Format (JSON array), for https://ui.perfetto.dev or
chrome://tracing: one track for each stage, one for the run. It is written as the run goes, and the
format lets the closing bracket be missing, so a run that is killed leaves a timeline too. Times are
of each stage's own machine: between machines they are as far apart as their clocks.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

from scpl_ray.engine.base import Done
from scpl_ray.exits import ExitResult
from scpl_ray.report import Plan, Reporter
from scpl_ray.stage_facts import StageStats
from scpl_ray.trace_parts import parts_of

EVENTS, PICTURE = "trace.json", "trace.png"
MOST_STEPS = 10_000
_PICTURED = 300
_RUN = 0
_STAGES = 10_000


class Trace(Reporter):
    """Listens to a run and writes its timeline.

    Args:
        folder: the run's folder; nothing is written before it is there.

    Attributes:
        first: the first steps, for the picture.
        last: the last ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first: list[Done] = []
        self.last: deque[Done] = deque(maxlen=_PICTURED)
        self.steps = 0
        self._file: TextIO | None = None
        self._begun: float | None = None
        self._said: list[tuple[float, str]] = []
        self._ends: dict[int, float] = {}
        self._replicas: set[int] = set()

    def started(self, plan: Plan) -> None:
        """Opens the file."""
        self._file = (self.folder / EVENTS).open("w", encoding="utf-8", buffering=1 << 16)
        self._file.write("[\n")
        self._name(_RUN, "run")
        self.changed(plan)

    def changed(self, plan: Plan) -> None:
        """Names the tracks of the stages of now."""
        for spec in plan.stages:
            self._name(spec.number, f"stage {spec.number}: {', '.join(spec.layers)}")

    def _name(self, track: int, name: str) -> None:
        place = track % _STAGES * 100 + track // _STAGES
        self._write({"ph": "M", "name": "thread_name", "tid": track, "args": {"name": name}})
        self._write(
            {"ph": "M", "name": "thread_sort_index", "tid": track, "args": {"sort_index": place}}
        )

    def _track(self, stats: StageStats) -> int:
        """The track of a stage, or of one of its replicas behind the first."""
        track = stats.stage + _STAGES * stats.replica
        if stats.replica and track not in self._replicas:
            self._replicas.add(track)
            self._name(track, f"stage {stats.stage}, replica {stats.replica + 1}")
        return track

    def info(self, text: str) -> None:
        """A line of the log: stages that join or leave, processes that died."""
        self._mark(text)

    def notice(self, text: str) -> None:
        """A line of the log."""
        self._mark(text)

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """A split has been scored."""
        self._mark(f"{split} after epoch {epoch + 1}: {exits[-1].accuracy:.1%}" if exits else split)

    def _mark(self, text: str) -> None:
        if self._begun is None:
            self._said.append((time.time(), text))
            return
        self._write({"ph": "i", "name": text, "tid": _RUN, "s": "g", "ts": self._us(time.time())})

    def step(self, epoch: int, done: Done) -> None:
        """Writes what every stage did in one step."""
        self.steps += 1
        if len(self.first) < _PICTURED:
            self.first.append(done)
        self.last.append(done)
        if self._file is None or self.steps > MOST_STEPS:
            return
        if self._begun is None:
            self._begun = min(parts_of(stats)[0][1] for stats in done.stats)
            for moment, text in self._said:
                at = max(0.0, self._us(moment))
                self._write({"ph": "i", "name": text, "tid": _RUN, "s": "t", "ts": at})
        for stats in done.stats:
            self._stage(epoch, stats, stats is done.stats[-1])
        if self.steps == MOST_STEPS:
            self._mark(f"the timeline ends here: {MOST_STEPS:,} steps")

    def _stage(self, epoch: int, stats: StageStats, last: bool) -> None:
        # JSON has no NaN.
        loss = stats.loss if math.isfinite(stats.loss) else str(stats.loss)
        args = {"step": stats.step, "epoch": epoch, "loss": loss}
        track = self._track(stats)
        before = self._ends.get(track, 0.0)
        for name, begin, end in parts_of(stats):
            begin = max(begin, before)
            if end > begin:
                ts, dur = self._us(begin), 1e6 * (end - begin)
                event = {"ph": "X", "name": name, "cat": name, "tid": track}
                self._write(event | {"ts": ts, "dur": round(dur, 1), "args": args})
                before = end
        self._ends[track] = before
        # Arrows: what this stage hands on is what the next one takes in.
        flow = {"name": "activation", "cat": "flow", "id": stats.step, "tid": track}
        if stats.stage > 1:
            at = self._us(stats.begun_at)
            self._write(flow | {"ph": "t" if not last else "f", "bp": "e", "ts": at})
        elif not last:
            self._write(flow | {"ph": "s", "ts": self._us(stats.begun_at)})

    def _us(self, moment: float) -> float:
        return round(1e6 * (moment - (self._begun or 0.0)), 1)

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"pid": 1, **event}) + ",\n")

    def close(self) -> None:
        """Ends the file, and draws the picture."""
        if self._file is None:
            return
        # The last event without a comma behind it: from here on it is strict JSON.
        self._file.write(
            json.dumps({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "scpl-ray"}})
        )
        self._file.write("\n]\n")
        self._file.close()
        self._file = None
        if self.steps and self.folder.is_dir():
            from scpl_ray.trace_plot import draw

            draw(self.first, list(self.last), self.folder / PICTURE)
