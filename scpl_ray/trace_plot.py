"""The timeline as a picture: the pipeline fills, and stays full."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from scpl_ray.engine.base import Done
from scpl_ray.stage_facts import StageStats
from scpl_ray.trace_parts import parts_of

PART_COLOURS = {
    "receive": "#9aa5b1",
    "forward": "#3b82c4",
    "send": "#5fb6c9",
    "loss": "#e0a53a",
    "backward": "#d5643c",
    "optimizer": "#8c5aa8",
    "snapshot": "#404040",
}


def draw(first: Sequence[Done], last: Sequence[Done], path: Path) -> None:
    """Draws the first steps, and some of the steady state, as one row for each stage.

    Args:
        first: the first steps of the run.
        last: the last ones.
        path: of the PNG.
    """
    # Not pyplot: it would choose, and keep, a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    stages = max(s.stage for done in [*first, *last] for s in done.stats)
    zero = min(parts_of(s)[0][1] for s in first[0].stats)
    shown = max(8, 3 * stages)
    figure = Figure(figsize=(12, 1.6 + 2 * (0.9 + 0.45 * stages)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1)
    begin = first[: 2 * shown]
    _panel(
        axes[0],
        begin,
        stages,
        zero,
        (zero, begin[min(shown, len(begin)) - 1]),
        "the pipeline fills",
    )
    # All steps are drawn of which a part lies in the time that is shown. The window drains at the
    # end of a run, so the steady state is shown in the middle of the last steps.
    middle = list(last)[len(last) // 2]
    upto = list(last)[min(len(last) - 1, len(last) // 2 + shown)]
    _panel(axes[1], last, stages, zero, (middle.stats[-1].begun_at, upto), "steady state")
    axes[1].set_xlabel("seconds since the first batch")
    patches = [Patch(color=colour, label=name) for name, colour in PART_COLOURS.items()]
    patches.append(Patch(facecolor="white", edgecolor="#999999", label="waiting, evaluation"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.savefig(path, dpi=110)


def _panel(
    axes: Any,
    steps: Sequence[Done],
    stages: int,
    zero: float,
    shown: tuple[float, Done],
    title: str,
) -> None:
    """Draws the time from `shown[0]` to the end of the step `shown[1]`."""
    begin, end = shown[0], max(s.finished_at for s in shown[1].stats)
    rows = [
        s for done in steps for s in done.stats if s.finished_at > begin and parts_of(s)[0][1] < end
    ]
    lanes = {k: 1 + max((s.replica for s in rows if s.stage == k), default=0) for k in _all(stages)}
    for s in rows:
        # Replicas work at the same time: each has its part of the stage's row.
        high = 0.8 / lanes[s.stage]
        row = s.stage - 0.4 + (s.replica + 0.5) * high
        for name, at, until in parts_of(s):
            axes.barh(row, until - at, high, at - zero, color=PART_COLOURS[name], linewidth=0)
        whole = s.finished_at - s.begun_at
        middle = s.begun_at + whole / 2
        if whole > (end - begin) / 40 and begin < middle < end:
            inside = {"ha": "center", "va": "center", "color": "white", "fontsize": 8}
            axes.text(middle - zero, row, str(s.step), **inside)
        ends = [s.finished_at - zero] * 2
        axes.plot(ends, [row - high / 2, row + high / 2], "w-", linewidth=0.8)
    labels = [_label(rows, k, lanes[k], begin, end) for k in _all(stages)]
    axes.set_yticks(_all(stages), labels)
    axes.set_ylim(stages + 0.6, 0.4)
    axes.set_xlim(begin - zero, end - zero)
    finished = sorted(s.finished_at for s in rows if s.stage == stages)
    paces = [b - a for a, b in pairwise(finished)]
    pace = f": {1000 * statistics.median(paces):.1f} ms a step (median)" if paces else ""
    axes.set_title(f"{title}{pace}", loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _all(stages: int) -> range:
    return range(1, stages + 1)


def _label(rows: Sequence[StageStats], stage: int, lanes: int, begin: float, end: float) -> str:
    """A stage, and the share of the time shown in which it works."""
    busy = sum(
        max(0.0, min(s.finished_at, end) - max(s.begun_at, begin)) for s in rows if s.stage == stage
    )
    named = f"stage {stage}" + (f" x {lanes}" if lanes > 1 else "")
    return f"{named}\nworks {busy / lanes / max(end - begin, 1e-9):.0%}"
