"""Texts and images from outside -> what a trained network takes, as they were in training.

What cannot be read is refused by itself; the others of the batch go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scpl_ray.data.batch import DataInfo
from scpl_ray.data.images import UnreadableImageError, as_pixels, normalised, open_image
from scpl_ray.data.text import encode, pad
from scpl_ray.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prepared:
    """A batch, ready.

    Attributes:
        inputs: text: `tokens` [b, T] int64 and `mask` [b, T] bool; images: `images` [b, C, H, W]
            float32, normalised. Only what could be read.
        rows: [b], their places among what was given.
        refused: by place: why the rest could not be read.
    """

    inputs: dict[str, np.ndarray]
    rows: list[int]
    refused: dict[int, str]


class Preprocessor:
    """Prepares inputs; needs no weights.

    Args:
        info: what the network was trained on.
    """

    def __init__(self, info: DataInfo) -> None:
        self.info = info
        self.mean, self.deviation = (
            np.array(stats, dtype=np.float32)[:, None, None] for stats in info.pixel_stats
        )

    def texts(self, texts: Sequence[str]) -> Prepared:
        """Encodes and pads texts; cut at the length of training.

        Raises:
            DataError: the network was trained on images.
        """
        self._check("text")
        refused = {
            i: f"not a text but {type(text).__name__}: {text!r}"
            for i, text in enumerate(texts)
            if not isinstance(text, str)
        }
        ids = encode(self.info.tokenizer, ["" if i in refused else t for i, t in enumerate(texts)])
        for i, own in enumerate(ids):
            if i not in refused and not (len(own) and texts[i].strip()):
                refused[i] = "no word is left of this text" if texts[i].strip() else "an empty text"
        rows = [i for i in range(len(texts)) if i not in refused]
        return Prepared(pad([ids[i] for i in rows]), rows, refused)

    def images(self, images: Sequence[str | Path | Image]) -> Prepared:
        """Decodes, resizes and normalises images.

        The shorter side is brought to the size of training, and what sticks out of the longer one
        is cut off on both sides.

        Args:
            images: files, or images of Pillow.

        Raises:
            DataError: the network was trained on texts, or on images that no file can hold.
        """
        self._check("image")
        channels, *size = self.info.image_shape
        if channels not in (1, 3):
            raise DataError(
                f"the network takes images of {channels} channels; image files have 1 or 3: give "
                "normalised tensors to the network itself (scpl_ray.load)"
            )
        pixels, rows, refused = [], [], {}
        for i, image in enumerate(images):
            try:
                pixels.append(as_pixels(open_image(image, channels), (size[0], size[1])))
                rows.append(i)
            except UnreadableImageError as error:
                refused[i] = str(error)
        stacked = np.stack(pixels) if pixels else np.empty((0, channels, *size), np.uint8)
        return Prepared({"images": normalised(stacked, self.mean, self.deviation)}, rows, refused)

    def _check(self, kind: str) -> None:
        own = self.info.kind
        if own != kind:
            raise DataError(
                f"the network was trained on {own}s ({self.info.name}); it does not take {kind}s"
            )
