"""Texts of a file, a few at a time: the file may be larger than memory.

By the streaming of `datasets`, with the readers that training has for the same files. (Ray Data
streams too, but needs a Ray, for what one process computes here.)
"""

from __future__ import annotations

import csv
import glob
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scpl_ray.data.files import BUILDERS, reader_options
from scpl_ray.errors import DataError, nearest

if TYPE_CHECKING:
    from datasets import IterableDataset

_READERS = {**BUILDERS, ".txt": "text"}
SUFFIXES = tuple(_READERS)
_CHUNK = 512  # rows


class TextTable:
    """The texts of a file, in order; may be iterated again.

    Args:
        path: .csv, .tsv, .jsonl, .json, .parquet, or .txt with a text on each line.
        column: of the texts; not for .txt.

    Raises:
        DataError: the file cannot be read, is empty, or has no such column.
    """

    def __init__(self, path: str, column: str) -> None:
        self.path, self.suffix = path, Path(path).suffix.lower()
        self.column = "text" if self.suffix == ".txt" else column
        self._check_column()

    def __iter__(self) -> Iterator[Any]:
        """Each text, "" where there is none; what is no text comes as it is.

        Raises:
            DataError: the rest of the file cannot be read.
        """
        for chunk in self._chunks(_CHUNK, [self.column]):
            for value in chunk[self.column]:
                yield "" if value is None else value

    def _check_column(self) -> None:
        if Path(self.path).stat().st_size == 0:
            raise DataError(f"{self.path!r} is empty")
        first = next(self._chunks(1), None)
        if first is None:
            raise DataError(f"{self.path!r} has no rows")
        if self.column not in first:
            raise DataError(
                f"--text-column: no column {self.column!r} in {self.path}; columns there: "
                f"{', '.join(first)}.{nearest(self.column, first)}"
            )

    def _chunks(
        self, rows: int, columns: list[str] | None = None
    ) -> Iterator[dict[str, list[Any]]]:
        from datasets import logging

        loud = logging.get_verbosity()
        logging.set_verbosity(logging.CRITICAL)
        try:
            with tempfile.TemporaryDirectory() as cache:
                yield from self._open(cache, columns).iter(rows)
        except Exception as error:
            cause = error.__cause__ or error
            raise DataError(
                f"{self.path!r} is not a readable {_READERS[self.suffix]} file: "
                f"{(str(cause).splitlines() or [''])[0]}; mend the file"
            ) from error
        finally:
            logging.set_verbosity(loud)

    def _open(self, cache: str, columns: list[str] | None) -> IterableDataset:
        from datasets import Features, Value, load_dataset

        options = reader_options(self.suffix)
        if _READERS[self.suffix] == "csv":
            # Else a column that looks like numbers for a while would be read as such.
            names = self._header(options.get("sep", ","))
            options["features"] = Features({name: Value("string") for name in names})
        if self.suffix == ".parquet":
            # By default a whole group of rows, of any size.
            options |= {"batch_size": _CHUNK, "columns": columns}
        return load_dataset(
            _READERS[self.suffix],
            data_files=glob.escape(self.path),
            split="train",
            streaming=True,
            cache_dir=cache,
            **options,
        )

    def _header(self, separator: str) -> list[str]:
        with Path(self.path).open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=separator), [])
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two columns are named {name!r}")
        return names
