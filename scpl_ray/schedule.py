"""What a run does, in order, as a pure list of work; every engine follows the same one.

    epoch 0: Train(0) Train(1) ... | Evaluate(validation) ... | Stash(0)
    epoch 1: Train(n) ...

Markers (Snapshot) are put in between by whoever runs it.

All work streams through the stages in this order, evaluation too: stage k evaluates with the
weights that it has after the epoch's last batch while stage 1 trains on already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Train:
    """Train on one batch; `step` counts from 0 over the whole run."""

    step: int
    epoch: int


@dataclass(frozen=True)
class Evaluate:
    """Score one batch of a split with the weights after `epoch`."""

    split: str
    epoch: int
    index: int
    last: bool
    limit: int | None = None


@dataclass(frozen=True)
class Stash:
    """Keep a copy of the weights after `epoch`."""

    epoch: int


@dataclass(frozen=True)
class Restore:
    """Go back to the copy of the weights after `epoch`."""

    epoch: int


@dataclass(frozen=True)
class Snapshot:
    """Copy the stage's whole state as it is before `step`: the marker among the batches.

    Each stage meets it between the same two batches, so the copies are of one moment of the run,
    though no stage stops for another (Chandy & Lamport 1985).

    Attributes:
        step: the next training step.
        durable: it becomes a checkpoint on storage; else it stays in memory.
    """

    step: int
    durable: bool = False


Work = Train | Evaluate | Stash | Restore | Snapshot


def training(
    epochs: int, steps_per_epoch: int, validation_batches: int, stash: bool, first: int = 0
) -> Iterator[Work]:
    """Yields the work of a training run from the step `first` on.

    A run that goes on at the first step of an epoch has evaluated the epoch before.
    """
    for epoch in range(first // steps_per_epoch, epochs):
        for i in range(steps_per_epoch):
            if epoch * steps_per_epoch + i >= first:
                yield Train(epoch * steps_per_epoch + i, epoch)
        yield from evaluation("validation", epoch, validation_batches)
        if stash:
            yield Stash(epoch)


def evaluation(split: str, epoch: int, batches: int, limit: int | None = None) -> Iterator[Work]:
    """Yields the work of evaluating one split once."""
    for i in range(batches):
        yield Evaluate(split, epoch, i, i == batches - 1, limit)
