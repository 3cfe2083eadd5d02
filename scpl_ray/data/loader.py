"""Deterministic batches: which samples make batch t is a function of (seed, t) alone."""

from __future__ import annotations

import numpy as np

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.augment import VIEWS, Augmenter
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.data.raw import PixelStats, RawData
from scpl_ray.data.sources import load_raw
from scpl_ray.data.splits import ImageSplit, TextSplit, encode_split, image_splits
from scpl_ray.data.text import train_tokenizer
from scpl_ray.data.workers import Workers
from scpl_ray.errors import DataError
from scpl_ray.rng import numpy_generator


class BatchLoader:
    """Makes any batch of a run on demand.

    Args:
        info: what the data is.
        splits: "train", "validation" and "test".
        seed: the run's seed.
        batch_size: training samples a batch, each of one or two rows.
        eval_batch_size: samples a batch in evaluation.
        drop_last: leave out a ragged last batch.
        dropped: samples of each split that had no word left and were left out.
        augmenter: makes the random views of training images.

    Attributes:
        ahead: makes training batches in other processes, for engines.
    """

    def __init__(
        self,
        info: DataInfo,
        splits: dict[str, TextSplit] | dict[str, ImageSplit],
        seed: int,
        batch_size: int,
        eval_batch_size: int,
        drop_last: bool,
        dropped: dict[str, int] | None = None,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.dropped, self.augmenter = dropped or {}, augmenter
        self.ahead: Workers | None = None
        self.info, self.splits, self.seed = info, splits, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        samples = len(splits["train"].labels)
        self.steps_per_epoch = samples // batch_size if drop_last else -(-samples // batch_size)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"train.batch_size: {batch_size} is more than the {samples} training samples, and "
                "train.drop_last leaves out a ragged batch; lower it, or set train.drop_last=false"
            )
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @classmethod
    def prepare(
        cls,
        data: DataConfig,
        seed: int,
        batch_size: int,
        eval_batch_size: int,
        drop_last: bool = False,
        tokenizer: str | None = None,
    ) -> BatchLoader:
        """Loads, cuts, encodes.

        Args:
            data: the source and its preprocessing.
            seed: decides the validation share and the order.
            batch_size: training samples a batch, each of one or two rows.
            eval_batch_size: samples a batch in evaluation.
            drop_last: leave out a ragged last batch.
            tokenizer: text: a trained tokenizer's JSON, in place of a new one.

        Raises:
            DataError: the data cannot be had or used.
        """
        raw = load_raw(data, seed)
        requested = data.source if data.path is None else raw.name
        splits: dict[str, TextSplit] | dict[str, ImageSplit]
        augmenter = None
        if raw.kind == "text":
            texts = [str(s) for s in raw.splits["train"].samples]
            saved = tokenizer or train_tokenizer(texts, data).to_str()
            splits = {name: encode_split(split, saved) for name, split in raw.splits.items()}
            info = _info(raw, requested, splits, tokenizer=saved, max_len=data.max_len)
        else:
            splits, shape, stats = image_splits(raw, data)
            info = _info(raw, requested, splits, shape=shape, stats=stats, kind=data.augment)
            if data.augment != "none":
                augmenter = Augmenter(data.augment, seed, *shape[1:])
        if info.sizes["train"] == 0:
            raise DataError(f"data: no training sample of {raw.name!r} has a word left")
        dropped = {n: len(s.labels) - info.sizes[n] for n, s in raw.splits.items()}
        return cls(info, splits, seed, batch_size, eval_batch_size, drop_last, dropped, augmenter)

    def train_batch(self, step: int) -> Batch:
        """Makes the batch of a training step; the last of an epoch may be smaller.

        It has `info.views` rows for each of its samples, side by side.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            draw = numpy_generator(self.seed, "shuffle", epoch)
            self._order = (epoch, draw.permutation(len(self.splits["train"].labels)))
        rows = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        train, views = self.splits["train"], self.info.views
        labels = train.labels[rows].repeat(views)
        return Batch(train.views(rows, self.augmenter, epoch), labels, step)

    def num_eval_batches(self, split: str, limit: int | None = None) -> int:
        """Batches of one look at a split, or at its first `limit` samples in a seeded order."""
        samples = len(self.splits[split].labels)
        return -(-min(samples, limit or samples) // self.eval_batch_size)

    def eval_batch(self, split: str, index: int, limit: int | None = None) -> Batch:
        """Makes one batch of a split, always in the same order."""
        samples = len(self.splits[split].labels)
        if limit is not None and limit < samples:
            order = numpy_generator(self.seed, "evaluate", split).permutation(samples)[:limit]
        else:
            order = np.arange(samples)
        rows = order[index * self.eval_batch_size : (index + 1) * self.eval_batch_size]
        if len(rows) == 0:
            raise IndexError(f"the {split} split has no batch {index}")
        part = self.splits[split]
        return Batch(part.gather(rows), part.labels[rows], index)


def _info(
    raw: RawData,
    requested: str,
    splits: dict[str, TextSplit] | dict[str, ImageSplit],
    tokenizer: str = "",
    max_len: int = 0,
    shape: tuple[int, ...] = (),
    stats: PixelStats = ((0.0,), (1.0,)),
    kind: str = "none",
) -> DataInfo:
    vocab_size = 0
    if tokenizer:
        from tokenizers import Tokenizer

        vocab_size = Tokenizer.from_str(tokenizer).get_vocab_size()
    return DataInfo(
        name=raw.name,
        requested=requested,
        kind=raw.kind,
        label_names=raw.label_names,
        sizes={name: len(splits[name].labels) for name in ("train", "validation", "test")},
        source=raw.source,
        notice=raw.notice,
        vocab_size=vocab_size,
        max_len=max_len,
        image_shape=shape,
        tokenizer=tokenizer,
        pixel_stats=stats,
        views=VIEWS[kind],
        wrong_labels=raw.wrong_labels,
    )
