"""Samples as batches are gathered from them: encoded texts, and images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.augment import Augmenter
from scpl_ray.data.images import ImageFiles, Pixels, channel_stats, normalised, resized
from scpl_ray.data.raw import PixelStats, RawData, RawSplit
from scpl_ray.data.text import encode, pad
from scpl_ray.errors import DataError

_MEASURED = 1000  # image files whose channels are measured where no constants are given


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

    def views(
        self, rows: np.ndarray, augmenter: Augmenter | None, epoch: int
    ) -> dict[str, np.ndarray]:
        """As `gather`: texts are not augmented."""
        return self.gather(rows)


@dataclass(frozen=True)
class ImageSplit:
    """Pixels of rows, labels [N], and the channels' mean and deviation, [C, 1, 1] float32."""

    pixels: Pixels
    labels: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Normalises rows: images [B, C, H, W] float32."""
        return self._normalised(self.pixels[rows])

    def views(
        self, rows: np.ndarray, augmenter: Augmenter | None, epoch: int
    ) -> dict[str, np.ndarray]:
        """Random views of rows in an epoch, normalised: images [V * B, C, H, W] float32."""
        pixels = self.pixels[rows]
        if augmenter is not None:
            pixels = augmenter(pixels, rows, epoch)
        return self._normalised(pixels)

    def _normalised(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {"images": normalised(pixels, self.mean, self.deviation)}


def encode_split(split: RawSplit, tokenizer: str) -> TextSplit:
    """Encodes a split and drops the samples that end up empty."""
    encoded = encode(tokenizer, [str(s) for s in split.samples])
    kept = [i for i, ids in enumerate(encoded) if len(ids)]
    lengths = [len(encoded[i]) for i in kept]
    ids = np.concatenate([encoded[i] for i in kept]) if kept else np.empty(0, dtype=np.int32)
    return TextSplit(
        ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), split.labels[kept]
    )


def image_splits(
    raw: RawData, config: DataConfig
) -> tuple[dict[str, ImageSplit], tuple[int, ...], PixelStats]:
    """Makes images ready: their size, and how they are normalised.

    Args:
        raw: images in memory or in files, with all splits.
        config: `image_size`, `pixel_mean` and `pixel_std` are read.

    Returns:
        The splits, (C, H, W), and the mean and deviation of each channel: those of the config, of
        the set, or of the training images (of files: of so many, evenly spaced).

    Raises:
        DataError: images of different sizes, or constants for another number of channels.
    """
    pixels: dict[str, Pixels] = {}
    train = raw.splits["train"].samples
    if isinstance(train, np.ndarray):
        arrays = {name: np.asarray(split.samples) for name, split in raw.splits.items()}
        if config.image_size is not None:
            arrays = {name: resized(a, config.image_size) for name, a in arrays.items()}
        pixels.update(arrays)
        shape, sample = arrays["train"].shape[1:], arrays["train"]
    else:
        files = ImageFiles(train, raw.image_size)
        shape = files.shape
        pixels["train"] = files
        for name in ("validation", "test"):
            pixels[name] = ImageFiles(list(raw.splits[name].samples), raw.image_size, shape)
        spaced = np.linspace(0, len(train) - 1, min(len(train), _MEASURED)).astype(np.int64)
        own = config.pixel_mean is None and raw.pixel_stats is None
        sample = files[spaced] if own else np.empty(0)
    stats = _stats(raw, config, shape[0], sample)
    mean, deviation = (np.array(s, dtype=np.float32)[:, None, None] for s in stats)
    splits = {
        name: ImageSplit(pixels[name], split.labels, mean, deviation)
        for name, split in raw.splits.items()
    }
    return splits, tuple(shape), stats


def _stats(raw: RawData, config: DataConfig, channels: int, sample: np.ndarray) -> PixelStats:
    if (config.pixel_mean is None) != (config.pixel_std is None):
        raise DataError("data.pixel_mean, data.pixel_std: give both, or neither")
    if config.pixel_mean is None or config.pixel_std is None:
        return raw.pixel_stats or channel_stats(sample)
    for key in ("pixel_mean", "pixel_std"):
        given = getattr(config, key)
        if len(given) != channels:
            raise DataError(
                f"data.{key}: {len(given)} numbers, but the images of {raw.name!r} have {channels} "
                "channels; give one for each"
            )
    return tuple(config.pixel_mean), tuple(config.pixel_std)
