"""Trains a network by end-to-end backpropagation for as long as the config says, and scores it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor

from scpl_ray.bench.kinds import PIPELINED, micro_batches
from scpl_ray.bench.learner import Learner, threads_of
from scpl_ray.bench.ranks import Rank, in_processes
from scpl_ray.config import Config
from scpl_ray.exits import ExitResult
from scpl_ray.schedule import Train
from scpl_ray.stage_facts import StageSpec

# Steps of each number of micro-batches that is tried; the first are not timed.
_TRIED, _WARM_UP = 8, 3


@dataclass(frozen=True)
class Trained:
    """A network that was trained.

    Attributes:
        kind: one of `kinds.KINDS`.
        processes: how many.
        threads: of each.
        micro_batches: of a batch; 1 where there are none.
        tried_ms: a step by the number of micro-batches, where it was chosen.
        seconds: of all epochs, validation included.
        samples: training samples seen.
        results: of the exit by split, with the weights that were kept.
        memory_mib: the most of each process, looked at after each step.
        waiting: share of the training steps in which each process did not compute.
        weights: by layer, if they were asked for.
    """

    kind: str
    processes: int
    threads: int
    micro_batches: int
    tried_ms: dict[int, float]
    seconds: float
    samples: int
    results: dict[str, ExitResult]
    memory_mib: list[float]
    waiting: list[float]
    weights: dict[str, Any] = field(default_factory=dict, repr=False)


def train_end_to_end(
    kind: str,
    config: Config,
    specs: list[StageSpec],
    micro: int | None = None,
    keep_weights: bool = False,
) -> Trained:
    """Trains in fresh processes.

    Args:
        kind: one of `kinds.KINDS`.
        config: the job.
        specs: the stages.
        micro: micro-batches; None: those with the shortest step.
        keep_weights: return the weights too.

    Raises:
        ConfigError: the batch cannot be divided.
        RunError: a process failed.
    """
    many = kind in PIPELINED
    sizes = [1]
    if many:
        sizes = (
            micro_batches(kind, config.train.batch_size, len(specs)) if micro is None else [micro]
        )
    world = len(specs) if many else 1
    patience = config.pipeline.start_timeout_s + config.pipeline.step_timeout_s
    found = in_processes(kind, world, patience, _train, kind, config, specs, sizes, keep_weights)
    last = found[-1]
    return Trained(
        kind,
        world,
        threads_of(kind, config, len(specs)),
        last["micro"],
        last["tried_ms"],
        last["seconds"],
        last["samples"],
        last["results"],
        [one["memory_mib"] for one in found],
        [one["waiting"] for one in found],
        {name: value for one in found for name, value in one["weights"].items()},
    )


def _train(
    rank: Rank,
    kind: str,
    config: Config,
    specs: list[StageSpec],
    sizes: list[int],
    keep_weights: bool,
) -> dict[str, Any]:
    learner = Learner(rank, kind, config, specs)
    rank.join()
    tried_ms = _try(learner, sizes) if len(sizes) > 1 else {}
    micro = min(tried_ms, key=tried_ms.__getitem__) if tried_ms else sizes[0]
    learner.batch(Train(0, 0))  # processes that make batches have started then
    run = _Training(learner, micro)
    run.epochs()
    results = {"validation": run.kept, "train": None, "test": None}
    for split in ("train", "test"):
        results[split] = learner.score(split, config.train.epochs - 1)
    weights = learner.weights() if keep_weights else {}
    rank.leave()
    return {
        "micro": micro,
        "tried_ms": tried_ms,
        "seconds": run.seconds,
        "samples": run.samples,
        "results": {split: result for split, result in results.items() if result is not None},
        "memory_mib": run.memory_mib,
        "waiting": max(0.0, 1 - learner.computed_s / run.stepping_s),
        "weights": {name: value.numpy() for name, value in weights.items()},
    }


def _try(learner: Learner, sizes: list[int]) -> dict[int, float]:
    """A step by the number of micro-batches, in ms; the weights are as before."""
    before = learner.copied()
    tried = {}
    given = learner.batch(Train(0, 0))
    for micro in sizes:
        times = []
        for _ in range(_WARM_UP + _TRIED):
            torch.distributed.barrier()
            begun = time.perf_counter()
            learner.differentiate(0, given, micro)
            times.append(time.perf_counter() - begun)
        slowest = torch.tensor(statistics.median(times[_WARM_UP:]), dtype=torch.float64)
        torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
        tried[micro] = 1000 * float(slowest)
    learner.put_back(before)
    learner.forget_pipelines()
    learner.computed_s = 0.0
    return tried


class _Training:
    """The epochs in one process.

    Args:
        learner: what it holds.
        micro: micro-batches of a batch.

    Attributes:
        seconds: of all epochs, validation included.
        stepping_s: of the training steps.
        samples: training samples seen.
        kept: the exit on the validation split with the weights that are kept.
        memory_mib: the most after a step.
    """

    def __init__(self, learner: Learner, micro: int) -> None:
        self.learner, self.micro = learner, micro
        self.seconds = self.stepping_s = self.memory_mib = 0.0
        self.samples = 0
        self.kept: ExitResult | None = None
        self._best, self._weights = -1.0, list[dict[str, Tensor]]()

    def epochs(self) -> None:
        """All of them; then the weights that the config wants kept are in place."""
        learner = self.learner
        config, per_epoch = learner.config.train, learner.ready.steps_per_epoch
        if learner.rank.world > 1:
            torch.distributed.barrier()
        process, begun = psutil.Process(), time.perf_counter()
        for epoch in range(config.epochs):
            start = time.perf_counter()
            for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
                given = learner.batch(Train(step, epoch))
                learner.learn(step, given, self.micro)
                self.memory_mib = max(self.memory_mib, process.memory_info().rss / 2**20)
                if given is not None:
                    self.samples += len(given[1]) // learner.ready.info.views
            self.stepping_s += time.perf_counter() - start
            self._validate(epoch, config.select == "best")
        self.seconds = time.perf_counter() - begun
        if self._weights:
            learner.put_back(self._weights)

    def _validate(self, epoch: int, keep_best: bool) -> None:
        learner = self.learner
        if learner.ready.validation_batches == 0:
            return
        result = learner.score("validation", epoch)
        if not keep_best:
            self.kept = result
            return
        accuracy = torch.tensor(-1.0 if result is None else result.accuracy, dtype=torch.float64)
        if learner.rank.world > 1:
            torch.distributed.broadcast(accuracy, src=learner.rank.world - 1)
        if float(accuracy) > self._best:
            self._best, self._weights, self.kept = float(accuracy), learner.copied(), result
