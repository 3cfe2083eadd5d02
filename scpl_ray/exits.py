"""Accuracy per exit, folded from a stream of scores. No torch: screens and commands import it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scpl_ray.stage_facts import ExitScore


@dataclass(frozen=True)
class ExitResult:
    """One exit on one split.

    Attributes:
        stage: number of the stage, from 1.
        accuracy: share of right answers, 0 to 1.
        loss: mean cross entropy.
        samples: how many were answered.
    """

    stage: int
    accuracy: float
    loss: float
    samples: int


def fold(scores: Iterable[ExitScore]) -> list[ExitResult]:
    """Sums the scores of many batches into one result per exit."""
    totals: dict[int, list[float]] = {}
    for score in scores:
        if score.samples:
            total = totals.setdefault(score.stage, [0, 0, 0.0])
            total[0] += score.correct
            total[1] += score.samples
            total[2] += score.loss_sum
    return [
        ExitResult(stage, correct / samples, loss / samples, int(samples))
        for stage, (correct, samples, loss) in sorted(totals.items())
    ]
