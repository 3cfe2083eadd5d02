"""The comparison as screen, Markdown and plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from scpl_ray.comparing.rows import Figure, Row

NONE = "-"


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and texts; accuracy in percent."""
    stages = sorted({stage for row in rows for stage in row.exits})
    heads = ["run", "method", "runs", *(f"exit {stage}, %" for stage in stages)]
    heads += ["s/epoch", "samples/s", "speed-up", "MiB", "waiting, %"]
    texts = [
        [
            row.name,
            row.method,
            str(row.runs),
            *(_text(row.exits.get(stage), 2, 100) for stage in stages),
            row.epoch_s.text(1),
            row.samples_per_s.text(0),
            f"{row.speed_up:.2f}",
            _text(row.memory_mib, 0),
            _text(row.idle, 0, 100),
        ]
        for row in rows
    ]
    return heads, texts


def _text(value: Figure | None, digits: int, scale: float = 1.0) -> str:
    return NONE if value is None else value.text(digits, scale)


def screen(rows: Sequence[Row]) -> list[Table]:
    """For a terminal of 80 columns: what they learned, and how fast."""
    heads, texts = cells(rows)
    speed = heads.index("s/epoch")
    titles = ("accuracy on the test split, mean ± standard deviation", "")
    parts = ([*range(speed)], [0, *range(speed, len(heads))])
    return [_part(title, heads, texts, part) for title, part in zip(titles, parts, strict=True)]


def _part(title: str, heads: list[str], texts: list[list[str]], columns: list[int]) -> Table:
    table = Table(title=title, box=None, padding=(0, 2, 0, 0))
    for i in columns:
        table.add_column(heads[i], justify="left" if i < 2 else "right")
    for row in texts:
        table.add_row(*(row[i] for i in columns))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    heads, texts = cells(rows)
    rule = ["---" if i < 2 else "---:" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *texts)) + "\n"


def values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain values, for JSON."""
    return [dataclasses.asdict(row) for row in rows]
