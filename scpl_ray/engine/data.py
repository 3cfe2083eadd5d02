"""Work -> batch: the data side that both engines share. No Ray."""

from __future__ import annotations

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch
from scpl_ray.data.loader import BatchLoader
from scpl_ray.data.workers import Workers
from scpl_ray.engine.base import DataReady
from scpl_ray.huggingface import own_tokenizer
from scpl_ray.schedule import Evaluate, Stash, Train


def load_data(config: Config, tokenizer: str | None = None) -> tuple[BatchLoader, DataReady]:
    """Prepares the data of a config; with a tokenizer's JSON, by that one, else the network's."""
    loader = BatchLoader.prepare(
        config.data,
        config.seed,
        config.train.batch_size,
        config.evaluate.batch_size,
        config.train.drop_last,
        tokenizer or own_tokenizer(config),
    )
    if config.pipeline.data_workers:
        loader.ahead = Workers(loader, config.pipeline.data_workers)
    ready = DataReady(
        loader.info,
        loader.steps_per_epoch,
        loader.num_eval_batches("validation"),
        loader.num_eval_batches("test"),
        loader.num_eval_batches("train", config.evaluate.train_samples),
        loader.dropped,
    )
    return loader, ready


def fetch(loader: BatchLoader, work: Train | Evaluate | Stash) -> Batch:
    """Makes the batch of one piece of work."""
    if isinstance(work, Train):
        return (loader.ahead.batch if loader.ahead else loader.train_batch)(work.step)
    assert isinstance(work, Evaluate)
    return loader.eval_batch(work.split, work.index, work.limit)
