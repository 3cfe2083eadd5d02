"""All stages in this process, one after another: for debugging, and the yardstick of exactness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine.base import DataReady, Done, StageState
from scpl_ray.engine.build import build_stage, prepare_process, stage_state
from scpl_ray.engine.data import fetch, load_data
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.placement import threads_per_stage
from scpl_ray.errors import NonFiniteLossError
from scpl_ray.models.activation import from_batch
from scpl_ray.models.text import WordVectors
from scpl_ray.stage import Stage
from scpl_ray.stage_module import StageSpec


class LocalEngine:
    """Runs stages 1..S in order on each batch.

    Args:
        config: the run's config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.threads = 1
        self.stages: list[Stage] = []
        self._threads_before = torch.get_num_threads()
        self._rng_before = torch.random.get_rng_state()

    def prepare_data(self) -> DataReady:
        """Loads the data in this process."""
        self.loader, self.ready = load_data(self.config)
        return self.ready

    def start(self, specs: list[StageSpec], vectors: WordVectors | None) -> list[str]:
        """Builds all stages in this process."""
        self.threads = threads_per_stage(self.config, len(specs))
        prepare_process(self.config, self.threads)
        cuda = self.config.resources.device != "cpu" and torch.cuda.is_available()
        device = "cuda" if cuda else "cpu"
        per_epoch = self.ready.steps_per_epoch
        total = per_epoch * self.config.train.epochs
        self.stages = [
            build_stage(spec, self.config, self.ready.info, total, per_epoch, device, vectors)
            for spec in specs
        ]
        return [f"local engine: {len(specs)} stages in this process, one after another, {device}"]

    def run(self, work: Iterable[schedule.Work]) -> Iterator[Done]:
        """Does each piece of work with all stages before the next."""
        for item in work:
            if isinstance(item, schedule.Stash):
                for stage in self.stages:
                    stage.stash(item.epoch)
                yield Done(item)
            else:
                yield self._one(item)

    def _one(self, item: schedule.Train | schedule.Evaluate) -> Done:
        activation, labels = from_batch(fetch(self.loader, item))
        stats, scores = [], []
        for stage in self.stages:
            own = activation.map(partial(_copy_to, stage.device))
            there = labels.to(stage.device)
            try:
                if isinstance(item, schedule.Train):
                    activation = stage.forward(item.step, own, there)
                    stats.append(stage.update(item.step))
                else:
                    activation, score = stage.evaluate(own, there)
                    scores.append(score)
            except NonFiniteLossError:
                raise
            except Exception as error:
                raise stage_error(stage.spec.number, item, own, error) from error
        return Done(item, tuple(stats), tuple(scores))

    def keep_stash(self, epoch: int | None, restore: bool = False) -> None:
        """Forgets the stashes but one; with `restore`, goes back to it."""
        for stage in self.stages:
            stage.keep_stash(epoch, restore)

    def states(self) -> Iterator[StageState]:
        """Yields the state of each stage."""
        yield from map(stage_state, self.stages)

    def close(self) -> None:
        """Gives the process's threads and random state back as they were."""
        self.stages = []
        torch.set_num_threads(self._threads_before)
        torch.random.set_rng_state(self._rng_before)


def _copy_to(device: torch.device, tensor: Tensor) -> Tensor:
    return tensor.to(device, copy=True)
