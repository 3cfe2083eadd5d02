"""Rounds: how a stage with replicas shares its batches. Pure.

A stage with R replicas takes R batches at the same time, a whole one each, so its contrastive set
stays the whole batch. It learns once a round, from the mean of the R gradients, each of which was
computed with the weights of before the round; running statistics are averaged as well. That is
what one replica does that accumulates the gradients of R batches: the same as one step on the
concatenated batch, with a loss that is the mean of the batches' own.

A round never spans two epochs: an epoch's last one may be shorter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def ends_round(step: int, replicas: int, steps_per_epoch: int) -> bool:
    """Whether a stage with so many replicas learns after `step`."""
    place = step % steps_per_epoch
    return (place + 1) % replicas == 0 or place + 1 == steps_per_epoch


@dataclass(frozen=True)
class Rounds:
    """The rounds of all stages.

    Attributes:
        replicas: of each stage that has more than one.
        steps_per_epoch: training steps of an epoch.
    """

    replicas: tuple[int, ...] = ()
    steps_per_epoch: int = 1

    @classmethod
    def of(cls, replicas: Iterable[int], steps_per_epoch: int) -> Rounds:
        """Of the replicas of each stage."""
        return cls(tuple(sorted({r for r in replicas if r > 1})), steps_per_epoch)

    def between(self, step: int) -> bool:
        """Whether before `step` no stage is in the midst of a round.

        Only there can states of all stages be copied, stages join or leave, and training stop.
        """
        return all((step % self.steps_per_epoch) % r == 0 for r in self.replicas)
