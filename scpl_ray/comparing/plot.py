"""The comparison as a picture: accuracy by exit, and speed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from scpl_ray.comparing.rows import Row
from scpl_ray.run_folder import write_atomically

COLOURS = ("#3b82c4", "#d5643c", "#4f9d69", "#8c5aa8", "#e0a53a", "#5fb6c9", "#9aa5b1", "#404040")
_LONGEST = 32


def short(name: str) -> str:
    """A name that leaves room for the picture: its two ends."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[: half - 1]}..{name[-half + 1 :]}"


def draw(rows: Sequence[Row], path: Path | BinaryIO) -> None:
    """Draws accuracy against exit, and samples a second, one colour for each row.

    Args:
        rows: of the table.
        path: of the PNG, or what takes its bytes.
    """
    from matplotlib import rc_context

    whole = io.BytesIO()
    # A name with dollars in it is no formula.
    with rc_context({"text.parse_math": False}):
        _drawn(rows).savefig(whole, format="png", dpi=130)
    if isinstance(path, Path):
        write_atomically(path, whole.getvalue())
    else:
        path.write(whole.getvalue())


def _drawn(rows: Sequence[Row]) -> Any:
    # Not pyplot: it would choose, and keep, a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.4 + 0.32 * max(4, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for i, row in enumerate(rows):
        colour = COLOURS[i % len(COLOURS)]
        stages = sorted(row.exits)
        # Side by side, so that equal ones are all seen.
        aside = min(0.06, 0.5 / len(rows)) * (i - (len(rows) - 1) / 2)
        left.errorbar(
            [stage + aside for stage in stages],
            [100 * row.exits[s].mean for s in stages],
            yerr=[100 * (row.exits[s].deviation or 0.0) for s in stages],
            color=colour, marker="o", markersize=5, linewidth=1.5, capsize=3,
            label=short(row.name),
        )  # fmt: skip
        right.barh(
            i, row.samples_per_s.mean, xerr=row.samples_per_s.deviation or 0.0,
            color=colour, height=0.62,
        )  # fmt: skip
    stages = sorted({stage for row in rows for stage in row.exits})
    left.set_xticks(stages)
    if stages:
        left.set_xlim(stages[0] - 0.4, stages[-1] + 0.4)
    left.set_xlabel("exit behind stage")
    left.set_ylabel("test accuracy, %")
    left.grid(axis="y", alpha=0.3)
    right.set_yticks(range(len(rows)), [short(row.name) for row in rows])
    right.set_ylim(max(4, len(rows)) - 0.5, -0.5)
    right.set_xlabel("training samples a second")
    right.grid(axis="x", alpha=0.3)
    for axes in (left, right):
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    return figure
