"""Deterministic batches: which samples make batch t is a function of (seed, t) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.data.raw import RawData, RawSplit
from scpl_ray.data.sources import load_raw
from scpl_ray.data.text import encode, pad, train_tokenizer
from scpl_ray.errors import DataError
from scpl_ray.rng import numpy_generator


@dataclass(frozen=True)
class TextSplit:
    """Encoded texts: flat ids [sum of T] int32, offsets [N + 1], labels [N]."""

    ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Pads rows to the longest of them: tokens [B, T] int64, mask [B, T] bool."""
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        return pad([self.ids[a:b] for a, b in zip(starts, ends, strict=True)])


@dataclass(frozen=True)
class ImageSplit:
    """Pixels [N, C, H, W] uint8, labels [N], and the training pixels' mean and deviation."""

    pixels: np.ndarray
    labels: np.ndarray
    mean: float
    deviation: float

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Normalises rows: images [B, C, H, W] float32."""
        images = (self.pixels[rows].astype(np.float32) / 255 - self.mean) / self.deviation
        return {"images": images.astype(np.float32)}


class BatchLoader:
    """Makes any batch of a run on demand.

    Args:
        info: what the data is.
        splits: "train", "validation" and "test".
        seed: the run's seed.
        batch_size: training samples a batch.
        eval_batch_size: samples a batch in evaluation.
        drop_last: leave out a ragged last batch.
        dropped: samples of each split that had no word left and were left out.
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
    ) -> None:
        self.dropped = dropped or {}
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
            batch_size: training samples a batch.
            eval_batch_size: samples a batch in evaluation.
            drop_last: leave out a ragged last batch.
            tokenizer: text: a trained tokenizer's JSON, in place of a new one.

        Raises:
            DataError: the data cannot be had or used.
        """
        raw = load_raw(data, seed)
        requested = data.source if data.path is None else raw.name
        splits: dict[str, TextSplit] | dict[str, ImageSplit]
        if raw.kind == "text":
            texts = [str(s) for s in raw.splits["train"].samples]
            saved = tokenizer or train_tokenizer(texts, data).to_str()
            splits = {name: _encode(split, saved) for name, split in raw.splits.items()}
            info = _info(raw, requested, splits, tokenizer=saved, max_len=data.max_len)
        else:
            pixels = np.asarray(raw.splits["train"].samples)
            mean, deviation = float(pixels.mean() / 255), float(pixels.std() / 255) or 1.0
            splits = {
                name: ImageSplit(np.asarray(s.samples), s.labels, mean, deviation)
                for name, s in raw.splits.items()
            }
            info = _info(raw, requested, splits, pixels=pixels, stats=(mean, deviation))
        if info.sizes["train"] == 0:
            raise DataError(f"data: no training sample of {raw.name!r} has a word left")
        dropped = {n: len(s.labels) - info.sizes[n] for n, s in raw.splits.items()}
        return cls(info, splits, seed, batch_size, eval_batch_size, drop_last, dropped)

    def train_batch(self, step: int) -> Batch:
        """Makes the batch of a training step; the last of an epoch may be smaller."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            draw = numpy_generator(self.seed, "shuffle", epoch)
            self._order = (epoch, draw.permutation(len(self.splits["train"].labels)))
        rows = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        return self._batch("train", rows, step)

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
        return self._batch(split, rows, index)

    def _batch(self, split: str, rows: np.ndarray, step: int) -> Batch:
        part = self.splits[split]
        return Batch(part.gather(rows), part.labels[rows], step)


def _encode(split: RawSplit, tokenizer: str) -> TextSplit:
    """Encodes a split and drops the samples that end up empty."""
    encoded = encode(tokenizer, [str(s) for s in split.samples])
    kept = [i for i, ids in enumerate(encoded) if len(ids)]
    lengths = [len(encoded[i]) for i in kept]
    ids = np.concatenate([encoded[i] for i in kept]) if kept else np.empty(0, dtype=np.int32)
    return TextSplit(
        ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), split.labels[kept]
    )


def _info(
    raw: RawData,
    requested: str,
    splits: dict[str, TextSplit] | dict[str, ImageSplit],
    tokenizer: str = "",
    max_len: int = 0,
    pixels: np.ndarray | None = None,
    stats: tuple[float, float] = (0.0, 1.0),
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
        image_shape=() if pixels is None else pixels.shape[1:],
        tokenizer=tokenizer,
        pixel_stats=stats,
    )
