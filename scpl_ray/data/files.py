"""The user's own files: CSV, JSON Lines, Parquet, or a saved `datasets` folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.columns import read_columns
from scpl_ray.data.raw import RawData
from scpl_ray.errors import DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def user_files(config: DataConfig) -> RawData:
    """Reads `data.path`, and `data.test_path` if it is set.

    Raises:
        DataError: naming the key, the file, and what is allowed.
    """
    if config.path is None:
        raise DataError(
            "data.path: data.source 'file' needs it: a .csv, .tsv, .jsonl, .json or .parquet file, "
            "or a folder of datasets.save_to_disk"
        )
    tables = _read("data.path", config.path)
    if config.test_path is not None:
        tables["test"] = _read("data.test_path", config.test_path)["train"]
    name = Path(config.path).stem
    splits, names = read_columns(tables, config.text_column, config.label_column, config.path)
    return RawData(name, "text", splits, names, f"the user's {config.path}")


def _read(key: str, given: str) -> dict[str, Dataset]:
    path = Path(given).expanduser()
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.glob("*")])
        raise DataError(f"{key}: no file or folder {given!r}; give its path.{near}")
    if path.is_dir():
        return _saved(key, path)
    builder = BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise DataError(
            f"{key}: {given!r}: its extension must be one of "
            f"{', '.join(BUILDERS)}, or a folder of datasets.save_to_disk"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{key}: {given!r} is empty; it needs rows with a text and a label")
    from datasets import Dataset, disable_progress_bars, load_dataset, logging

    disable_progress_bars()
    options = reader_options(path.suffix.lower())
    loud = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        # In memory: the cache of `datasets` would keep a copy of the user's data for ever.
        with tempfile.TemporaryDirectory() as cache:
            table = load_dataset(
                builder,
                data_files=str(path),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
            table = Dataset.from_dict(table.to_dict(), features=table.features)
    except Exception as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise DataError(
                f"{key}: {given!r} has no rows; it needs rows with a text and a label"
            ) from error
        raise DataError(
            f"{key}: {given!r} is not a readable {builder} file: "
            f"{(str(cause).splitlines() or [''])[0]}; mend the file"
        ) from error
    finally:
        logging.set_verbosity(loud)
    if len(table) == 0:
        raise DataError(f"{key}: {given!r} has no rows; it needs rows with a text and a label")
    return {"train": table}


def reader_options(suffix: str) -> dict[str, Any]:
    """How the reader of `datasets` is to read a file with this extension."""
    if BUILDERS.get(suffix) != "csv":
        return {}
    # "None" and "NA" are words like any other; only an empty cell is missing.
    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    return options | ({"sep": "\t"} if suffix == ".tsv" else {})


def _saved(key: str, path: Path) -> dict[str, Dataset]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:
        raise DataError(
            f"{key}: {str(path)!r} is a folder, but not one of datasets.save_to_disk; allowed: "
            f"such a folder, or a file {', '.join(BUILDERS)}. For a folder of images: "
            "data.source=folder"
        ) from error
    if not isinstance(found, DatasetDict):
        return {"train": found}
    if "train" not in found:
        raise DataError(
            f"{key}: {str(path)!r} has no split 'train'; its splits: {', '.join(found)}"
        )
    return {name: found[name] for name in ("train", "validation", "test") if name in found}
