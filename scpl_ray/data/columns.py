"""Rows of a Hugging Face `datasets` table -> texts and label ids, with clear refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scpl_ray.data.raw import RawSplit
from scpl_ray.errors import DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset


def read_columns(
    tables: dict[str, Dataset], text_column: str, label_column: str, where: str
) -> tuple[dict[str, RawSplit], tuple[str, ...]]:
    """Reads texts and labels of all splits.

    Args:
        tables: split name -> table; "train" among them.
        text_column: name of the column of texts.
        label_column: name of the column of labels: class ids, or any integers or strings.
        where: the file or data set, for messages.

    Returns:
        The splits, and the class names: those of the table, else the sorted distinct labels
        of the training split.

    Raises:
        DataError: a missing column, no text, a missing or unseen label.
    """
    for table in tables.values():
        for key, column in (("text_column", text_column), ("label_column", label_column)):
            if column not in table.column_names:
                names = table.column_names
                raise DataError(
                    f"data.{key}: no column {column!r} in {where}; columns there: "
                    f"{', '.join(names)}.{nearest(column, names)}"
                )
    known = _names(tables["train"], label_column)
    raw = {name: _labels(t, label_column, where) for name, t in tables.items()}
    if known is None and len({type(v) for v in raw["train"]}) > 1:
        raise DataError(
            f"data.label_column: {label_column!r} of {where} mixes integers and strings; write "
            "every label the same way"
        )
    ordered = list(range(len(known))) if known else sorted(set(raw["train"]))
    index = {label: i for i, label in enumerate(ordered)}
    if known:
        # A file of its own may name the classes in another order, or hold the names themselves.
        index.update({name: i for i, name in enumerate(known)})
        for split, table in tables.items():
            names = _names(table, label_column)
            if names and names != known:
                raw[split] = [names[v] if 0 <= v < len(names) else v for v in raw[split]]
    splits = {}
    for name, table in tables.items():
        unseen = sorted({str(v) for v in raw[name] if v not in index})
        if unseen:
            raise DataError(
                f"data.label_column: {label_column!r} of the {name} split of {where} has labels "
                f"that the training split has not: {', '.join(unseen[:5])}; the labels must be the "
                "same"
            )
        labels = np.array([index[v] for v in raw[name]], dtype=np.int64)
        splits[name] = RawSplit(_texts(table, text_column, where), labels)
    names = tuple(known) if known else tuple(str(v) for v in ordered)
    return splits, names


def _names(table: Dataset, column: str) -> list[str] | None:
    """The class names of a ClassLabel column, else None."""
    feature: Any = table.features[column]
    return getattr(feature, "names", None)


def _labels(table: Dataset, column: str, where: str) -> list[Any]:
    values = table[column][:]
    for row, value in enumerate(values):
        if value is None or value == "" or (isinstance(value, float) and value != value):
            raise DataError(
                f"data.label_column: {column!r} of {where} has no label in row {row + 1}; give "
                "every row a label, or remove it"
            )
        if not isinstance(value, int | str | float) or (
            isinstance(value, float) and not value.is_integer()
        ):
            raise DataError(
                f"data.label_column: {column!r} of {where} has {value!r} in row {row + 1}; labels "
                "are integers or strings"
            )
    # A column of integers with a hole elsewhere arrives as floats.
    return [int(v) if isinstance(v, float) else v for v in values]


def _texts(table: Dataset, column: str, where: str) -> list[str]:
    values = table[column][:]
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"data.text_column: {column!r} of {where} holds {type(value).__name__} "
                f"({value!r} in row {row + 1}), not text; name the column of texts"
            )
    return [v or "" for v in values]
