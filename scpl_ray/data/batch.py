"""What a data source yields, and what the rest of the system knows about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Batch:
    """One batch, as it leaves the data process.

    Attributes:
        inputs: text: `tokens` [B, T] int64 and `mask` [B, T] bool (True at real tokens);
            images: `images` [B, C, H, W] float32, normalised. Two views of a sample are two
            rows side by side, each with its label.
        labels: [B] int64.
        step: index of the batch: the training step, or the position in an evaluated split.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    step: int


@dataclass(frozen=True)
class DataInfo:
    """What models and reports need to know of the data; small, goes everywhere.

    Attributes:
        name: the source that was really used.
        requested: the source that the config names.
        kind: "text" or "image".
        label_names: one name per class, in the order of the label ids.
        sizes: samples in "train", "validation" and "test".
        source: one line: where the samples come from.
        notice: what was replaced, to be said aloud; empty if nothing was.
        vocab_size: text: number of token ids (pad 0 and unk 1 among them), else 0.
        max_len: text: the most tokens of a sample, else 0.
        image_shape: images: (C, H, W), else ().
        tokenizer: text: the trained tokenizer as JSON, else "".
        pixel_stats: images: mean and standard deviation of each channel.
        views: images: rows that each training sample makes in its batch.
        wrong_labels: training labels that label noise made wrong.
    """

    name: str
    requested: str
    kind: str
    label_names: tuple[str, ...]
    sizes: dict[str, int]
    source: str = ""
    notice: str = ""
    vocab_size: int = 0
    max_len: int = 0
    image_shape: tuple[int, ...] = ()
    tokenizer: str = field(default="", repr=False)
    pixel_stats: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    views: int = 1
    wrong_labels: int = 0

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)
