"""Thresholds of early exit: what each gives, and which is best. Pure: works on collected answers.

Every exit's logits are computed once; a threshold then only decides which of them counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from scpl_ray.early_exit import Measure, Rule, score
from scpl_ray.evaluate import Collected
from scpl_ray.exiting.compute import Costs

By = Literal["flops", "layers"]
CANDIDATES = 200


@dataclass(frozen=True)
class Point:
    """What a threshold gives.

    Attributes:
        threshold: as in `Rule`.
        accuracy: of the answers given, 0 to 1.
        answered: share of the samples that each exit answers, in the order of the exits.
        layers: mean share of the network's layers that are run.
        flops: share of its FLOPs that are run; the last exit alone is 1.
    """

    threshold: float
    accuracy: float
    answered: tuple[float, ...]
    layers: float
    flops: float

    def share(self, by: By) -> float:
        """Of the network's compute."""
        return self.flops if by == "flops" else self.layers


@dataclass(frozen=True)
class Scored:
    """A split, reduced to what thresholds need.

    Attributes:
        scores: [E, N], how sure each exit is.
        correct: [E, N] bool, whether it is right.
        costs: of its samples.
        measure: of the scores.
    """

    scores: Tensor
    correct: Tensor
    costs: Costs
    measure: Measure

    @classmethod
    def of(cls, collected: Collected, costs: Costs, measure: Measure) -> Scored:
        """Takes calibrated answers of a split and their costs."""
        scores = torch.stack([score(logits, measure) for logits in collected.logits])
        answers = torch.stack([logits.argmax(1) for logits in collected.logits])
        return cls(scores, answers == collected.labels, costs, measure)

    @property
    def last(self) -> float:
        """Accuracy of the last exit."""
        return float(self.correct[-1].double().mean())

    def stops(self, threshold: float) -> Tensor:
        """The position of the exit at which each sample leaves, [N]."""
        sure = Rule(threshold, self.measure).reached(self.scores)
        sure[-1] = True
        return sure.int().argmax(0)

    def point(self, threshold: float) -> Point:
        """What a threshold gives on this split."""
        stops = self.stops(threshold)
        accuracy = float(self.correct.gather(0, stops.unsqueeze(0)).double().mean())
        counts = torch.bincount(stops, minlength=len(self.scores))
        answered = tuple((counts / len(stops)).tolist())
        return Point(threshold, accuracy, answered, *self.costs.shares(stops))


def candidates(scored: Scored, classes: int, number: int = CANDIDATES) -> list[float]:
    """Thresholds worth trying, from all leaving at once to (almost) none leaving early.

    Between two of them about equally many answers of early exits become sure or unsure. They are
    rounded, so that they can be typed.

    Args:
        scored: the split that they are chosen on.
        classes: number of classes.
        number: how many, at most, beside the two ends.
    """
    early = scored.scores[:-1].flatten().double().sort().values
    places = torch.linspace(0, len(early) - 1, number).round().long()
    confident = scored.measure == "confidence"
    found = {_rounded(value, confident) for value in early[places].tolist()}
    ends = {0.0, 1.0} if confident else {0.0, math.ceil(1e5 * math.log(classes)) / 1e5}
    return sorted(found | ends, reverse=not confident)


def _rounded(value: float, confident: bool) -> float:
    """Three digits of how unsure one may be: an entropy, or 1 - confidence."""
    unsure = 1 - value if confident else value
    if unsure <= 0:
        return value
    return round(value, 2 - math.floor(math.log10(unsure)))


@dataclass(frozen=True)
class Aim:
    """What is looked for; at least one of the two.

    Attributes:
        max_loss: accuracy that may be lost against the last exit, 0 to 1.
        max_compute: share of compute that may be run, as of `by`.
        by: what compute is.
    """

    max_loss: float | None = None
    max_compute: float | None = None
    by: By = "flops"

    def best(self, points: Sequence[Point], last: float) -> Point | None:
        """The best of the points; None where none is within the limits.

        With a limit on the loss, the least compute within it; else the best accuracy.

        Args:
            points: of the split to choose on.
            last: accuracy of its last exit.
        """
        within = [p for p in points if self.holds(p, last)]
        if not within:
            return None
        if self.max_loss is not None:
            return min(within, key=lambda p: (p.share(self.by), -p.accuracy))
        return max(within, key=lambda p: (p.accuracy, -p.share(self.by)))

    def holds(self, point: Point, last: float) -> bool:
        """Whether a point is within the limits."""
        # Accuracies are counts over one number; without the margin 0.91 - 0.905 is above 0.005.
        loses = self.max_loss is not None and last - point.accuracy > self.max_loss + 1e-9
        return not loses and (
            self.max_compute is None or point.share(self.by) <= self.max_compute + 1e-9
        )


def spread(points: Sequence[Point], number: int, by: By = "flops") -> list[Point]:
    """Some of the points, as evenly over the shares of compute as they lie."""
    low, high = min(p.share(by) for p in points), max(p.share(by) for p in points)
    marks = [low + (high - low) * i / (number - 1) for i in range(number)]
    near = {min(points, key=lambda p: abs(p.share(by) - mark)).threshold for mark in marks}
    return [p for p in points if p.threshold in near]


@dataclass(frozen=True)
class Sweep:
    """Thresholds chosen on one split and looked at on another.

    Attributes:
        stages: of the exits.
        measure: of the thresholds.
        temperatures: of the exits, by stage.
        points: of the split that is reported.
        shortcuts: (accuracy, share of layers, of FLOPs) of each exit answering alone.
        aim: what was looked for.
        best: what is best on the validation split, there; None: nothing was within the limits.
        last: accuracy of the last exit on the reported split; `last_chosen` on the validation one.
        samples: of the reported split.
    """

    stages: tuple[int, ...]
    measure: Measure
    points: tuple[Point, ...]
    shortcuts: tuple[tuple[float, float, float], ...]
    aim: Aim
    best: Point | None
    last: float
    last_chosen: float
    samples: int
    temperatures: Mapping[int, float] = field(default_factory=dict)

    @property
    def at_best(self) -> Point | None:
        """What the best threshold gives on the reported split."""
        if self.best is None:
            return None
        return next(p for p in self.points if p.threshold == self.best.threshold)


def sweep(
    stages: tuple[int, ...],
    chosen: Scored,
    reported: Scored,
    classes: int,
    aim: Aim,
    temperatures: Mapping[int, float],
) -> Sweep:
    """Tries all candidates of the split to choose on, on both splits.

    Args:
        stages: of the exits.
        chosen: validation.
        reported: test.
        classes: number of classes.
        aim: what is looked for.
        temperatures: that the scores were calibrated with.
    """
    tried = candidates(chosen, classes)
    best = aim.best([chosen.point(t) for t in tried], chosen.last)
    shortcuts = tuple(
        (float(reported.correct[i].double().mean()), *reported.costs.alone_shares(i))
        for i in range(len(stages))
    )
    points = tuple(reported.point(t) for t in tried)
    return Sweep(
        stages, chosen.measure, points, shortcuts, aim, best, reported.last, chosen.last,
        reported.correct.shape[1], temperatures,
    )  # fmt: skip
