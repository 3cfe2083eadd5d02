"""A step of end-to-end backpropagation over the same layers: what people use instead.

The network is the config's layers and the exit head behind the last one; the loss its cross
entropy. See `kinds` for the ways, `learner` for what is equal to the stages. Where a mask goes with
the batch, each process has it from its own copy of the data.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from scpl_ray.bench.kinds import PIPELINED
from scpl_ray.bench.learner import Given, Learner
from scpl_ray.bench.ranks import Rank, in_processes
from scpl_ray.config import Config
from scpl_ray.peak_memory import PeakMemory, own_mib
from scpl_ray.schedule import Train
from scpl_ray.stage_facts import StageSpec

_WARM_UP = 3
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Baseline:
    """One way to train the same network.

    Attributes:
        name: which.
        step_ms: a step in steady state, the mean.
        micro_batches: of a batch; 1 where there are none.
        peak_mib: the most that one of its processes grew by, from before the network was built,
            in memory of its own.
        weights: by layer, after the steps.
    """

    name: str
    step_ms: float
    micro_batches: int = 1
    peak_mib: float = 0.0
    weights: dict[str, Any] = field(default_factory=dict, repr=False)


def baseline(kind: str, config: Config, specs: list[StageSpec], steps: int, micro: int) -> Baseline:
    """Trains some steps in fresh processes and times them.

    Args:
        kind: one of `kinds.KINDS`.
        config: the job.
        specs: the stages.
        steps: timed steps.
        micro: micro-batches; must divide the batch.

    Raises:
        RunError: a process failed or hung.
    """
    world = len(specs) if kind in PIPELINED else 1
    found = in_processes(kind, world, _LIMIT_S, _steps, kind, config, specs, steps, micro)
    weights = {name: value for one in found for name, value in one["weights"].items()}
    step_ms = max(one["step_ms"] for one in found)
    peak = max(one["peak_mib"] for one in found)
    return Baseline(kind, step_ms, micro, peak, weights)


def _steps(
    rank: Rank, kind: str, config: Config, specs: list[StageSpec], steps: int, micro: int
) -> dict[str, Any]:
    learner = Learner(rank, kind, config, specs)
    empty = own_mib()
    batches = _full_batches(learner, steps + _WARM_UP)
    before = learner.before_mib + own_mib() - empty
    rank.join()
    times = []
    peak = PeakMemory()
    for step, given in batches:
        begun = time.perf_counter()
        learner.learn(step, given, micro)
        times.append(time.perf_counter() - begun)
    grown = peak.end() - before
    weights = {name: value.numpy() for name, value in learner.weights().items()}
    rank.leave()
    return {
        "step_ms": 1000 * statistics.fmean(times[_WARM_UP:]),
        "peak_mib": grown,
        "weights": weights,
    }


def _full_batches(learner: Learner, count: int) -> list[tuple[int, Given | None]]:
    """The first batches that are whole; the last of an epoch may be smaller."""
    per_epoch = learner.ready.steps_per_epoch
    size, samples = learner.config.train.batch_size, learner.ready.info.sizes["train"]
    whole = [i for i in range(per_epoch) if (i + 1) * size <= samples] or [0]
    epochs = itertools.count()
    steps = (epoch * per_epoch + i for epoch in epochs for i in whole)
    return [(i, learner.batch(Train(i, i // per_epoch))) for i in itertools.islice(steps, count)]
