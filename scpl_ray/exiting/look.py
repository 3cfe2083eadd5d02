"""What `scpl-ray eval` finds out about a run: the work behind its options. Needs torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from scpl_ray.early_exit import Answers, Measure, Rule, leave_early
from scpl_ray.evaluate import Collected, batches, collect, own_threads, prepare
from scpl_ray.exiting import calibration
from scpl_ray.exiting.compute import Costs, count, flops_run
from scpl_ray.exiting.sweep import Aim, Point, Scored, Sweep, spread, sweep
from scpl_ray.exiting.temperatures import ExitTemperature, Temperatures, in_use, save
from scpl_ray.exiting.timing import Timed, first_batches, time_answers
from scpl_ray.models.activation import Activation
from scpl_ray.network import load

CHOSEN_ON = "validation"
ROWS = 11


@dataclass(frozen=True)
class Taken:
    """What a way of answering took, against the last exit alone.

    Attributes:
        layers: mean share of the layers that were run.
        flops: share of the FLOPs that were run.
        timed: share of the time.
        whole_ms: milliseconds a sample of the last exit.
    """

    layers: float
    flops: float
    timed: Timed
    whole_ms: float


@dataclass(frozen=True)
class Left:
    """How a split was answered by one rule.

    Attributes:
        accuracy: of all answers.
        answered: samples that each exit answered.
        right: share of right answers among them; None where there are none.
        taken: what that took.
        last: accuracy of the last exit.
        logits: [N, C], calibrated.
        labels: [N].
    """

    accuracy: float
    answered: tuple[int, ...]
    right: tuple[float | None, ...]
    taken: Taken
    last: float
    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Swept:
    """A sweep, its rows for a table, and their times."""

    sweep: Sweep
    rows: list[Point]
    timed: dict[float, Timed]
    shortcuts: list[Timed]
    whole_ms: float


class Look:
    """A finished run, looked at on one split; what is asked for twice is computed once.

    Args:
        folder: the run's.
        split: "train", "validation" or "test".
        wish: whether temperatures are used, as of `temperatures.in_use`.
    """

    def __init__(self, folder: Path, split: str, wish: bool | None = None) -> None:
        self.folder, self.split = folder, split
        self.temperatures: Temperatures = in_use(folder, wish)
        self.network = load(folder)
        self.loader = prepare(self.network)
        self._given: dict[str, list[Activation]] = {}
        self._collected: dict[str, Collected] = {}

    @property
    def title(self) -> str:
        """Of what is shown: the run, its data, the split."""
        return f"{self.folder} on {self.network.info.name}, {self.split}"

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        return self.network.info.num_classes

    def collected(self, split: str | None = None) -> Collected:
        """Calibrated answers of every exit on a split; default: the one looked at."""
        name = split or self.split
        if name not in self._collected:
            raw = collect(self.network, self.loader, name)
            self._collected[name] = raw.calibrated(self.temperatures.values)
        return self._collected[name]

    def given(self, split: str | None = None) -> list[Activation]:
        """A split's batches, in memory."""
        name = split or self.split
        if name not in self._given:
            self._given[name] = [a for a, _ in batches(self.network, self.loader, name)]
        return self._given[name]

    def fit(self) -> tuple[list[calibration.Fitted], Path]:
        """Fits temperatures on the validation split and writes them beside the run."""
        raw = collect(self.network, self.loader, CHOSEN_ON)
        fitted = calibration.fit(raw)
        exits = [ExitTemperature(**dataclasses.asdict(f)) for f in fitted]
        path = save(self.folder, exits, len(raw.labels))
        self.temperatures = in_use(self.folder, True)
        self._collected.clear()
        return fitted, path

    def shortcut(self, stage: int) -> Taken:
        """What it takes to let one exit answer all samples."""
        costs, at = self.costs(), self.network.exits.index(stage)
        (timed,), whole_ms = time_answers(self.network, first_batches(self.given()), [stage])
        return Taken(*costs.alone_shares(at), timed, whole_ms)

    def leave(self, threshold: float, measure: Measure) -> Left:
        """Answers the split with early exit, for real."""
        rule = Rule(threshold, measure, self.temperatures.values)
        with own_threads(self.network):
            parts = [leave_early(self.network, activation, rule) for activation in self.given()]
            run = flops_run(self.network, self.given(), rule)
        answers = Answers(
            torch.cat([p.logits for p in parts]), torch.cat([p.stages for p in parts])
        )
        whole = self.collected()
        correct = answers.logits.argmax(1) == whole.labels
        at = [answers.stages == stage for stage in self.network.exits]
        costs = self.costs()
        stops = torch.stack(at).int().argmax(0)
        (timed,), whole_ms = time_answers(self.network, first_batches(self.given()), [rule])
        return Left(
            float(correct.double().mean()),
            tuple(int(own.sum()) for own in at),
            tuple(float(correct[own].double().mean()) if own.any() else None for own in at),
            Taken(costs.shares(stops)[0], run / costs.whole, timed, whole_ms),
            float((whole.logits[-1].argmax(1) == whole.labels).double().mean()),
            answers.logits,
            whole.labels,
        )

    def costs(self, split: str | None = None) -> Costs:
        """What the answers of a split cost."""
        with own_threads(self.network):
            return count(self.network, self.given(split))

    def sweep(self, measure: Measure, aim: Aim) -> Swept:
        """Tries thresholds on validation, and reports them on the split looked at."""
        reported = Scored.of(self.collected(), self.costs(), measure)
        chosen = reported
        if self.split != CHOSEN_ON:
            chosen = Scored.of(self.collected(CHOSEN_ON), self.costs(CHOSEN_ON), measure)
        temperatures = self.temperatures.values
        found = sweep(tuple(self.network.exits), chosen, reported, self.classes, aim, temperatures)
        rows = spread(found.points, ROWS, aim.by)
        if found.at_best is not None and found.at_best not in rows:
            rows = [p for p in found.points if p in rows or p == found.at_best]
        ways: list[Rule | int] = [Rule(p.threshold, measure, temperatures) for p in rows]
        timed, whole_ms = time_answers(
            self.network, first_batches(self.given()), [*ways, *found.stages]
        )
        by_threshold = {p.threshold: t for p, t in zip(rows, timed, strict=False)}
        return Swept(found, rows, by_threshold, timed[len(rows) :], whole_ms)
