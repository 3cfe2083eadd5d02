"""The comparison as screen, Markdown and plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from scpl_ray.comparing.rows import Figure, Row

NONE = "-"
RUNS = ("run", "method", "runs")
_SPEED = ("s/epoch", "samples/s")
_REST = ("MiB", "waiting, %")
_TITLE = "accuracy on the test split, mean ± standard deviation"


def cells(rows: Sequence[Row], names: Sequence[str] = RUNS) -> tuple[list[str], list[list[str]]]:
    """Headings and texts; accuracy in percent.

    Args:
        rows: of the table.
        names: headings of the first three columns.
    """
    exits, held_out = _exits(rows), _held_out(rows)
    bases = list(rows[0].speed_ups)
    heads = [*names, *(f"exit {stage}, %" for stage in exits)]
    heads += [f"validation {stage}, %" for stage in held_out]
    heads += [*_SPEED, *_speed_up_heads(bases), *_REST]
    texts = [
        [
            row.name,
            row.method,
            str(row.runs),
            *(_text(row.exits.get(stage), 2, 100) for stage in exits),
            *(_text(row.validation.get(stage), 2, 100) for stage in held_out),
            row.epoch_s.text(1),
            row.samples_per_s.text(0),
            *(_text(row.speed_ups.get(base), 2) for base in bases),
            _text(row.memory_mib, 0),
            _text(row.idle, 0, 100),
        ]
        for row in rows
    ]
    return heads, texts


def _exits(rows: Sequence[Row]) -> list[int]:
    return sorted({stage for row in rows for stage in row.exits})


def _held_out(rows: Sequence[Row]) -> list[int]:
    return sorted({stage for row in rows for stage in row.validation})


def _speed_up_heads(bases: Sequence[str]) -> list[str]:
    return ["speed-up"] if len(bases) == 1 else [f"/ {base}" for base in bases]


def _text(value: Figure | None, digits: int, scale: float = 1.0) -> str:
    return NONE if value is None else value.text(digits, scale)


def screen(rows: Sequence[Row], names: Sequence[str] = RUNS) -> list[Table]:
    """For a terminal of 80 columns: what they learned, and how fast."""
    heads, texts = cells(rows, names)
    first = len(names)
    held_out = first + len(_exits(rows))
    speed = held_out + len(_held_out(rows))
    parts = [(_TITLE, [*range(held_out)])]
    if speed > held_out:
        parts.append(("validation split", [0, *range(held_out, speed)]))
    parts.append(("", [0, *range(speed, len(heads))]))
    return [_part(title, heads, texts, part) for title, part in parts]


def _part(title: str, heads: list[str], texts: list[list[str]], columns: list[int]) -> Table:
    table = Table(title=title, box=None, padding=(0, 2, 0, 0))
    for i in columns:
        table.add_column(heads[i], justify="left" if i < 2 else "right")
    for row in texts:
        table.add_row(*(row[i] for i in columns))
    return table


def markdown(rows: Sequence[Row], names: Sequence[str] = RUNS) -> str:
    """A Markdown table."""
    heads, texts = cells(rows, names)
    rule = ["---" if i < 2 else "---:" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *texts)) + "\n"


def values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain values, for JSON."""
    return [dataclasses.asdict(row) for row in rows]
