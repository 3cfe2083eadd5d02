"""What an argument of `predict` means: a text, a file of texts, an image, a folder of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scpl_ray.errors import DataError, nearest
from scpl_ray.predicting.tables import SUFFIXES, TextTable

# Of torchvision's own list, which training goes by.
_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        value: the text, or the image's file; what stands in a file may be no text.
        file: the file of texts that it comes from; empty: from none.
        row: its place in that file, from 1; 0: in none.
    """

    value: Any
    file: str = ""
    row: int = 0


Source = Callable[[], Iterator[Item]]


def find_sources(
    arguments: Sequence[str], kind: str, text_column: str, as_text: bool = False
) -> list[Source]:
    """Finds out what arguments are; reads no more than the names of columns.

    Args:
        arguments: texts, and paths of files and folders.
        kind: what the network takes, "text" or "image".
        text_column: of tables.
        as_text: every argument is a text, even one that names a file.

    Raises:
        DataError: a path that does not exist, a file that the network does not take.
    """
    if as_text and kind != "text":
        raise DataError("--as-text: the network was trained on images; it takes no texts")
    find = _text_source if kind == "text" else _image_source
    return [_just(a) if as_text else find(a, text_column) for a in arguments]


def _just(value: str) -> Source:
    return lambda: iter([Item(value)])


def _text_source(argument: str, text_column: str) -> Source:
    path = os.path.expanduser(argument)  # noqa: PTH111 (a text need not be a path)
    if not os.path.exists(path):  # noqa: PTH110 (it may be too long for one)
        if _looks_like_path(argument):
            raise DataError(f"{_missing(argument)} If it is a text: --as-text")
        return _just(argument)
    suffix = Path(path).suffix.lower()
    if Path(path).is_file() and suffix in SUFFIXES:
        return _rows_of(TextTable(path, text_column), argument)
    what = "a folder" if Path(path).is_dir() else f"a file {suffix or 'without extension'}"
    raise DataError(
        f"{argument!r} is {what}, and the network was trained on texts: it takes texts, and files "
        f"of them ({', '.join(SUFFIXES)}). If it is a text: --as-text"
    )


def _rows_of(table: TextTable, name: str) -> Source:
    return lambda: (Item(text, name, row) for row, text in enumerate(table, 1))


def _image_source(argument: str, text_column: str) -> Source:
    path = os.path.expanduser(argument)  # noqa: PTH111
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(f"{_missing(argument)} The network was trained on images.")
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        raise DataError(
            f"{argument!r} is a file {suffix}, and the network was trained on images: give image "
            "files or folders of them"
        )
    if not Path(path).is_dir():
        return _just(path)
    if next(_images_in(path), None) is None:
        raise DataError(f"no image in the folder {argument!r} ({', '.join(_IMAGES)})")
    return lambda: (Item(image) for image in _images_in(path))


def _images_in(folder: str) -> Iterator[str]:
    """Images, however deep, in the order of their names; hidden ones are tools' own."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(_IMAGES) and not name.startswith("."):
                yield os.path.join(place, name)  # noqa: PTH118 (quickly, of many)


def _looks_like_path(argument: str) -> bool:
    """Whether somebody meant a file: by its end, its beginning, or a slash within one word."""
    if argument.startswith(("/", "./", "../", "~")):
        return True
    if argument.lower().endswith((*SUFFIXES, *_IMAGES)):
        return True
    return os.sep in argument and not any(c.isspace() for c in argument)


def _missing(argument: str) -> str:
    path = Path(argument).expanduser()
    try:
        there = [p.name for p in path.parent.glob("*")]
    except (OSError, ValueError):
        there = []
    return f"no file or folder {argument!r}.{nearest(path.name, there)}"
