"""Answers in a file: CSV, JSON Lines or Parquet, by its extension; whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scpl_ray.errors import ConfigError, nearest
from scpl_ray.predicting.answers import Answer

COLUMNS = ("input", "file", "row", "label", "probability", "exit", "error")
_GROUP = 10_000  # rows of a Parquet file that are written together

Write = Callable[[Answer], None]


def check_output(path: Path, inputs: Sequence[str]) -> None:
    """Checks where answers are to go.

    Raises:
        ConfigError: an extension that is not known, no such folder, or one of the inputs.
    """
    if path.suffix not in _WRITERS:
        raise ConfigError(
            f"--output: {str(path)!r}: its extension must be one of {', '.join(_WRITERS)}."
            f"{nearest(path.suffix, _WRITERS)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--output: no folder {str(path.parent)!r}; make it first")
    if path.is_dir():
        raise ConfigError(f"--output: {str(path)!r} is a folder; name a file")
    if path.exists() and any(Path(i).expanduser().resolve() == path.resolve() for i in inputs):
        raise ConfigError(f"--output: {str(path)!r} is one of the inputs; name another file")


@contextmanager
def writer(path: Path, labels: Sequence[str]) -> Iterator[Write]:
    """Writes answers beside their place; they take it when the block ends well.

    Args:
        path: an existing file is replaced.
        labels: names of the classes.
    """
    building = path.with_name(f".{path.name}.tmp")
    try:
        with _WRITERS[path.suffix](building, labels) as write:
            yield write
        building.replace(path)
    except OSError as error:
        raise ConfigError(f"--output: cannot write {path}: {error.strerror or error}") from error
    finally:
        building.unlink(missing_ok=True)


@contextmanager
def _csv(path: Path, labels: Sequence[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        yield lambda answer: rows.writerow(answer.row())


@contextmanager
def _json_lines(path: Path, labels: Sequence[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda answer: print(json_line(answer, labels), file=file)


@contextmanager
def _parquet(path: Path, labels: Sequence[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"row": pa.int64(), "probability": pa.float64(), "exit": pa.int64()}
    schema = pa.schema([(name, numbers.get(name, pa.string())) for name in COLUMNS])
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema) as file:

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(answer: Answer) -> None:
            waiting.append(answer.row())
            if len(waiting) >= _GROUP:
                flush()

        yield write
        flush()


_WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}


def json_line(answer: Answer, labels: Sequence[str]) -> str:
    """An answer as one line of JSON."""
    return json.dumps(answer.tree(labels), ensure_ascii=False)
