"""How long answers really take, against the last exit's answers to the same batches.

It is the CPU time of this process: what else the machine does would drown the differences.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from scpl_ray.early_exit import Rule, leave_early, shortcut
from scpl_ray.evaluate import own_threads
from scpl_ray.models.activation import Activation
from scpl_ray.network import Network

SAMPLES, TURNS = 1024, 3
"""Time is taken on at most so many samples (whole batches), so many times."""


@dataclass(frozen=True)
class Timed:
    """Medians over the turns.

    Attributes:
        share: of the last exit's time in the same turn.
        ms_per_sample: milliseconds of CPU time.
    """

    share: float
    ms_per_sample: float


def first_batches(given: Sequence[Activation], samples: int = SAMPLES) -> list[Activation]:
    """The first batches that together have at least so many samples, or all."""
    taken, size = [], 0
    for activation in given:
        if size >= samples:
            break
        taken.append(activation)
        size += len(activation.hidden)
    return taken


def time_answers(
    network: Network,
    given: Sequence[Activation],
    ways: Sequence[Rule | int],
    turns: int = TURNS,
    clock: Callable[[], float] = time.process_time,
) -> tuple[list[Timed], float]:
    """Times ways of answering, in turns, so that a busy moment of the machine meets all of them.

    Args:
        network: in evaluation mode.
        given: batches, in memory.
        ways: rules of early exit, or numbers of stages whose exit alone answers.
        turns: how often; one more goes before and is not counted.
        clock: seconds that have passed.

    Returns:
        One of each way, and the last exit's milliseconds a sample.
    """
    size = sum(len(activation.hidden) for activation in given)
    last = network.exits[-1]
    calls = [_call(network, way) for way in [last, *ways]]
    taken = []
    with own_threads(network):
        for _ in range(turns + 1):
            taken.append([_seconds(call, given, clock) for call in calls])
    columns = list(zip(*taken[1:], strict=True))
    found = [
        Timed(
            statistics.median(own / whole for own, whole in zip(column, columns[0], strict=True)),
            1000 * statistics.median(column) / size,
        )
        for column in columns
    ]
    return found[1:], found[0].ms_per_sample


def _call(network: Network, way: Rule | int) -> Callable[[Activation], Tensor]:
    if isinstance(way, int):
        return lambda activation: shortcut(network, activation, way)
    return lambda activation: leave_early(network, activation, way).logits


def _seconds(
    call: Callable[[Activation], Tensor], given: Sequence[Activation], clock: Callable[[], float]
) -> float:
    begin = clock()
    for activation in given:
        call(activation)
    return clock() - begin
