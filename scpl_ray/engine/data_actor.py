"""The actor that makes batches. It imports no torch: the data are ready sooner by that."""

from __future__ import annotations

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch
from scpl_ray.engine.base import DataReady
from scpl_ray.engine.data import fetch, load_data
from scpl_ray.schedule import Evaluate, Train


class DataActor:
    """Makes batches in a process of its own, ahead of the pipeline."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare(self, tokenizer: str | None = None) -> DataReady:
        """Loads the data."""
        self.loader, ready = load_data(self.config, tokenizer)
        return ready

    def alive(self) -> None:
        """It lives."""

    def batch(self, work: Train | Evaluate) -> Batch:
        """Makes one batch."""
        return fetch(self.loader, work)

    def batches(self, works: tuple[Train | Evaluate, ...]) -> list[Batch]:
        """Makes those that travel together."""
        return [fetch(self.loader, work) for work in works]
