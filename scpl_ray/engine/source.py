"""The data process as the driver sees it: batches on demand, again if need be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine.calls import Piece
from scpl_ray.engine.cluster import beside_driver
from scpl_ray.engine.data_actor import DataActor
from scpl_ray.engine.member import remote


class Source:
    """Makes batches. Any batch is a function of (seed, step), so a lost one is made again.

    Args:
        config: the run's config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._tokenizer: str | None = None
        self._start()

    def _start(self) -> None:
        make = remote(DataActor, num_cpus=0, scheduling_strategy=beside_driver())
        self.actor = make.remote(self.config)

    def prepare(self, tokenizer: str | None) -> Any:
        """Loads the data; returns the reference to its `DataReady`."""
        self._tokenizer = tokenizer
        return self.actor.prepare.remote(tokenizer)

    def renew(self) -> Any:
        """Starts another process, which loads the data again, with the vocabulary of before."""
        ray.kill(self.actor)
        self._start()
        return self.prepare(self._tokenizer)

    def keep_vocabulary(self, tokenizer: str) -> None:
        """The tokenizer that a new process shall use."""
        self._tokenizer = tokenizer or None

    def batches(self, works: Sequence[schedule.Work]) -> list[Piece | None]:
        """Asks for the batches of work that goes into one call; None for work without one."""
        if len(works) > 1:
            made = self.actor.batches.remote(tuple(works))
            return [Piece(made, i) for i in range(len(works))]
        if isinstance(works[0], schedule.Train | schedule.Evaluate):
            return [Piece(self.actor.batch.remote(works[0]))]
        return [None]
