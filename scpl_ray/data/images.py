"""Images in files: decoded when a batch asks for them, so that they may be more than memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from scpl_ray.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's modes that are not 8 bits a channel; turning them into RGB would clip their values.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class UnreadableImageError(DataError):
    """An image that cannot be used; the message begins with its name."""


class Pixels(Protocol):
    """What gives the pixels of rows: an array in memory, or files."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Pixels of rows [B]: [B, C, H, W] uint8."""
        ...


class ImageFiles:
    """Image files as RGB pixels [N, 3, H, W], decoded on demand.

    Args:
        paths: the files.
        size: height and width; the shorter side is scaled to it, what sticks out of the longer one
            is cut off on both sides. None: the files must all have the size of the first.
        shape: (C, H, W) that every image must have; (): that of the first file.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: int | None,
        shape: tuple[int, ...] = (),
    ) -> None:
        self.paths, self.size, self.shape = paths, size, shape
        if not shape and paths:
            self.shape = self._read(paths[0]).shape

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Decodes rows [B]: [B, 3, H, W] uint8.

        Raises:
            DataError: naming the file that cannot be read.
        """
        paths = [self.paths[row] for row in rows]
        images = [self._read(path) for path in paths]
        return np.stack(images) if images else np.empty((0, *self.shape), np.uint8)

    def _read(self, path: str) -> np.ndarray:
        pixels = read_image(path, self.size)
        if self.shape and pixels.shape != self.shape:
            (_, height, width), (_, own_height, own_width) = self.shape, pixels.shape
            raise DataError(
                f"data.image_size: {path} is {own_width} x {own_height} pixels, but the first "
                f"image is {width} x {height}; set data.image_size, and all are brought to it"
            )
        return pixels


def read_image(path: str, size: int | None) -> np.ndarray:
    """Reads one file as RGB: [3, H, W] uint8.

    Raises:
        DataError: naming the file.
    """
    try:
        image = open_image(path)
    except UnreadableImageError as error:
        raise DataError(f"data.path: {error}") from error
    return as_pixels(image, None if size is None else (size, size))


def open_image(image: str | Path | Image, channels: int = 3) -> Image:
    """Opens and decodes one image, upright.

    Args:
        image: a file, or an image of Pillow, decoded or not.
        channels: 3 for RGB, 1 for greyscale.

    Raises:
        UnreadableImageError: it is none, is damaged, or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = str(image) if isinstance(image, str | Path) else "it"
    opened: AbstractContextManager[Image.Image]
    try:
        if isinstance(image, str | Path):
            opened = Image.open(image)
        else:
            opened = contextlib.nullcontext(image)
        with opened as file:
            if file.mode in _DEEP:
                raise UnreadableImageError(
                    f"{name} has more than 8 bits a channel (mode {file.mode}); save it with 8 bits"
                )
            # Photographs may lie on their side and say so.
            return ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"{name} is not a readable image; mend or remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(
            f"the image {name} cannot be read ({error}); mend or remove it"
        ) from error


def as_pixels(image: Image, size: tuple[int, int] | None) -> np.ndarray:
    """Brings an image to a size, (height, width), and gives its pixels: [C, H, W] uint8."""
    pixels = np.asarray(_fit(image, size))
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def normalised(pixels: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Pixels [B, C, H, W] uint8 -> float32, by each channel's mean and deviation [C, 1, 1]."""
    images: np.ndarray = (pixels.astype(np.float32) / 255 - mean) / deviation
    return images.astype(np.float32)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """Brings pixels [N, C, H, W] uint8 to [N, C, size, size], as files are."""
    from PIL import Image

    if pixels.shape[2:] == (size, size):
        return pixels
    made = np.empty((*pixels.shape[:2], size, size), np.uint8)
    for image, small in zip(pixels, made, strict=True):
        # Channel by channel: it is the same, for any number of channels.
        for channel, out in zip(image, small, strict=True):
            out[:] = np.asarray(_fit(Image.fromarray(channel), (size, size)))
    return made


def _fit(image: Image, size: tuple[int, int] | None) -> Image:
    from PIL import ImageOps
    from PIL.Image import Resampling

    if size is None or image.size == size[::-1]:
        return image
    return ImageOps.fit(image, size[::-1], Resampling.BILINEAR)


def channel_stats(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of [N, C, H, W] uint8, as shares of 255."""
    channels = [pixels[:, c] for c in range(pixels.shape[1])]
    mean = tuple(float(c.mean() / 255) for c in channels)
    return mean, tuple(float(c.std() / 255) or 1.0 for c in channels)
