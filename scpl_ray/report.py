"""What a job tells while it runs: the interface, and the two plain ways to listen."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from scpl_ray.engine.base import Done
from scpl_ray.exits import ExitResult
from scpl_ray.stage_facts import StageSpec

_RECENT = 50


@dataclass(frozen=True)
class Plan:
    """What is about to happen.

    Attributes:
        name: the run's name.
        title: method, model and data in a few words.
        stages: the stages with their layers, those that have left last.
        parked: how many of the last have left: they only evaluate.
        epochs: number of epochs.
        steps_per_epoch: batches of an epoch.
        views: rows that each sample makes in its batch.
    """

    name: str
    title: str
    stages: list[StageSpec]
    epochs: int
    steps_per_epoch: int
    parked: int = 0
    views: int = 1

    @property
    def training(self) -> int:
        """How many stages train."""
        return len(self.stages) - self.parked


class Reporter:
    """Listens to a job and says nothing."""

    def notice(self, text: str) -> None:
        """Something the user must not miss: a replacement, an option without effect."""

    def info(self, text: str) -> None:
        """What is going on now."""

    def started(self, plan: Plan) -> None:
        """Training begins."""

    def changed(self, plan: Plan) -> None:
        """Stages have joined or left."""

    def step(self, epoch: int, done: Done) -> None:
        """A step has passed all stages."""

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """A split has been scored."""

    def close(self) -> None:
        """Nothing more will come."""


@dataclass
class Recent:
    """Moving figures over the last steps, for screens.

    Attributes:
        plan: what is running.
        steps: steps done.
        epoch: the current epoch, from 0.
    """

    plan: Plan
    steps: int = 0
    epoch: int = 0
    _window: deque[tuple[float, Done]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, epoch: int, done: Done) -> None:
        """Takes in one step."""
        self.steps = done.stats[0].step + 1
        self.epoch = epoch
        self._window.append((time.perf_counter(), done))

    def samples_per_second(self) -> float:
        """Training samples per second over the window."""
        if len(self._window) < 2:
            return 0.0
        window = list(self._window)
        span = window[-1][0] - window[0][0]
        samples = sum(done.stats[0].samples for _, done in window[1:])
        return samples / self.plan.views / max(span, 1e-9)

    def eta_s(self) -> float:
        """Seconds to the end at the window's speed."""
        window = list(self._window)
        if len(window) < 2:
            return 0.0
        span = window[-1][0] - window[0][0]
        left = self.plan.epochs * self.plan.steps_per_epoch - self.steps
        return left * span / (len(window) - 1)

    def stage(self, number: int) -> StageRow:
        """Figures of one stage (from 1) over those of the window's steps that it trained on."""
        rows = [s for _, done in list(self._window) for s in done.stats if s.stage == number]
        busy = sum(r.forward_s + r.update_s for r in rows)
        waiting = sum(r.waiting_s for r in rows)
        answered = [r for r in rows if r.correct is not None]
        samples = sum(r.samples for r in answered)
        return StageRow(
            loss=sum(r.loss for r in rows) / max(1, len(rows)),
            accuracy=sum(r.correct or 0 for r in answered) / samples if samples else None,
            busy=busy / max(1e-9, busy + waiting),
            memory_mib=rows[-1].memory_mib if rows else 0.0,
            steps=len(rows),
        )


@dataclass(frozen=True)
class StageRow:
    """One row of a screen.

    Attributes:
        loss: mean local loss.
        accuracy: of the stage's exit on training batches, None without an exit.
        busy: share of time spent computing; the rest is waiting.
        memory_mib: memory of the stage's process, or of its GPU.
        steps: of how many steps these are figures.
    """

    loss: float
    accuracy: float | None
    busy: float
    memory_mib: float
    steps: int = 0


class Writable(Protocol):
    """What `print` can write to."""

    def write(self, text: str, /) -> object:
        """Takes in text."""

    def flush(self) -> None:
        """Hands on what is buffered."""


class PlainReporter(Reporter):
    """One line every few seconds and at each epoch; for pipes, logs and CI.

    Args:
        out: where to write.
        every_s: seconds between two progress lines.
    """

    def __init__(self, out: Writable | None = None, every_s: float = 5.0) -> None:
        self.out, self.every_s = out or sys.stdout, every_s
        self.recent: Recent | None = None
        self._last = 0.0

    def _line(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def notice(self, text: str) -> None:
        """Prints a line that stands out."""
        self._line(f"!!! {text}")

    def info(self, text: str) -> None:
        """Prints a line."""
        self._line(text)

    def started(self, plan: Plan) -> None:
        """Prints the stages."""
        self.recent = Recent(plan)
        self._line(f"{plan.name}: {plan.title}")
        for spec in plan.stages:
            self._line(f"  stage {spec.number}: {', '.join(spec.layers)}")

    def changed(self, plan: Plan) -> None:
        """Prints the stages of now."""
        assert self.recent is not None, "started() comes first"
        self.recent.plan = plan
        self._line("stages: " + _stage_list(plan))

    def step(self, epoch: int, done: Done) -> None:
        """Prints a progress line now and then."""
        assert self.recent is not None, "started() comes first"
        self.recent.add(epoch, done)
        now = time.perf_counter()
        if now - self._last < self.every_s:
            return
        self._last = now
        plan, recent = self.recent.plan, self.recent
        stages = []
        for spec in plan.stages[: plan.training]:
            row = recent.stage(spec.number)
            if not row.steps:
                continue
            accuracy = "" if row.accuracy is None else f" acc {row.accuracy:.3f}"
            stages.append(f"[{spec.number}] loss {row.loss:.3f}{accuracy} busy {row.busy:.0%}")
        self._line(
            f"epoch {epoch + 1}/{plan.epochs} step {recent.steps}/"
            f"{plan.epochs * plan.steps_per_epoch} {recent.samples_per_second():.0f} samples/s "
            f"eta {recent.eta_s():.0f} s  " + "  ".join(stages)
        )

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """Prints the accuracy of each exit."""
        scores = "  ".join(f"exit {e.stage} {e.accuracy:.3f}" for e in exits)
        self._line(f"epoch {epoch + 1} {split} accuracy: {scores}")


class Reporters(Reporter):
    """Several listeners as one.

    Args:
        listeners: they hear everything, in this order.
    """

    def __init__(self, *listeners: Reporter) -> None:
        self.listeners = listeners

    def notice(self, text: str) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.notice(text)

    def info(self, text: str) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.info(text)

    def started(self, plan: Plan) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.started(plan)

    def changed(self, plan: Plan) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.changed(plan)

    def step(self, epoch: int, done: Done) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.step(epoch, done)

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.evaluated(split, epoch, exits)

    def close(self) -> None:
        """Passes on."""
        for listener in self.listeners:
            listener.close()


def _stage_list(plan: Plan) -> str:
    names = [
        f"{spec.number} ({', '.join(spec.layers)}{'' if i < plan.training else '; has left'})"
        for i, spec in enumerate(plan.stages)
    ]
    return "  ".join(names)
