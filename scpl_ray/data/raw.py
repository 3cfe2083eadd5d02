"""Samples as a source gives them, and the cutting of splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scpl_ray.config.schema import DataConfig
from scpl_ray.errors import DataError
from scpl_ray.rng import numpy_generator

PixelStats = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class RawSplit:
    """Samples and labels of one split.

    Attributes:
        samples: texts; pixels [N, C, H, W] uint8; or paths of image files.
        labels: [N] int64.
    """

    samples: Sequence[str] | np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> RawSplit:
        """Picks rows."""
        if isinstance(self.samples, np.ndarray):
            return RawSplit(self.samples[rows], self.labels[rows])
        return RawSplit([self.samples[i] for i in rows], self.labels[rows])


@dataclass(frozen=True)
class RawData:
    """A source's splits.

    Attributes:
        name: the source.
        kind: "text" or "image".
        splits: "train", and where the source has them "validation" and "test".
        label_names: one per class.
        source: where the samples come from, in one line.
        notice: what was replaced; empty if nothing was.
        pixel_stats: images: mean and deviation of each channel; None: measured.
        image_size: images in files: the side that they are brought to; None: as they are.
        wrong_labels: training labels that label noise made wrong.
    """

    name: str
    kind: str
    splits: dict[str, RawSplit]
    label_names: tuple[str, ...]
    source: str
    notice: str = ""
    pixel_stats: PixelStats | None = None
    image_size: int | None = None
    wrong_labels: int = 0


def cut_splits(raw: RawData, config: DataConfig, seed: int) -> RawData:
    """Gives the data all three splits.

    The test share does not depend on the run's seed, so that repetitions are tested alike; the
    validation share does. Both are cut class by class.

    Raises:
        DataError: a share leaves nothing to train on, or comes to no sample at all.
    """
    splits = dict(raw.splits)
    if config.pool and "test" in splits:
        splits["train"] = _join([splits["train"], splits.pop("test")])
    if "test" not in splits:
        splits["train"], splits["test"] = _cut(splits["train"], config.test, 0, f"test {raw.name}")
        _not_empty(raw.name, "test", config.test, splits)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _cut(
            splits["train"], config.validation, seed, "validation"
        )
        _not_empty(raw.name, "validation", config.validation, splits)
    if config.limit:
        splits = {
            name: s.take(
                numpy_generator(seed, "limit", name).permutation(len(s.labels))[: config.limit]
            )
            for name, s in splits.items()
        }
    if len(splits["train"].labels) == 0:
        raise DataError(
            f"data.validation / data.test: nothing is left to train on of {raw.name!r}; lower them"
        )
    if len(np.unique(splits["train"].labels)) < 2:
        key = "data.limit" if config.limit else "data.label_column"
        raise DataError(
            f"{key}: the training samples of {raw.name!r} have only one class; a "
            "contrastive loss needs two or more"
        )
    return replace(raw, splits=splits)


def _not_empty(name: str, split: str, share: float, splits: dict[str, RawSplit]) -> None:
    if share and not len(splits[split].labels):
        raise DataError(
            f"data.{split}: a share of {share:g} of the {len(splits['train'].labels)} training "
            f"samples of {name!r} is not one sample; raise it, set it to 0, or give more samples"
        )


def _join(parts: list[RawSplit]) -> RawSplit:
    labels = np.concatenate([p.labels for p in parts])
    if isinstance(parts[0].samples, np.ndarray):
        return RawSplit(np.concatenate([np.asarray(p.samples) for p in parts]), labels)
    return RawSplit([s for p in parts for s in p.samples], labels)


def _cut(split: RawSplit, share: float, seed: int, purpose: str) -> tuple[RawSplit, RawSplit]:
    """Cuts a share off: (the rest, the share), both in the source's order.

    Class by class; where every class is too small to give a sample, over all classes together.
    """
    draw = numpy_generator(seed, "split", purpose)
    held = np.zeros(len(split.labels), dtype=bool)
    for label in np.unique(split.labels):
        rows = np.flatnonzero(split.labels == label)
        held[draw.permutation(rows)[: round(share * len(rows))]] = True
    if not held.any():
        held[draw.permutation(len(held))[: round(share * len(held))]] = True
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))
