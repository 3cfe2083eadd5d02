"""The sweep as a picture: accuracy against compute, and who answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scpl_ray.exiting.sweep import Point, Sweep
from scpl_ray.exiting.timing import Timed

_COLOURS = ("#3b82c4", "#e0a53a", "#4f9d69", "#8c5aa8", "#d5643c", "#5fb6c9", "#9aa5b1", "#404040")
_LEGEND: dict[str, Any] = {
    "frameon": False, "fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.14),
}  # fmt: skip


def draw(sweep: Sweep, timed: Mapping[float, Timed], title: str, path: Path) -> None:
    """Draws a sweep.

    Args:
        sweep: of a run.
        timed: by threshold, where time was measured.
        title: of the run and its split.
        path: of the PNG.
    """
    # Not pyplot: it would choose, and keep, a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _accuracy(left, sweep, timed)
    _answered(right, sweep)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})


def _accuracy(axes: Any, sweep: Sweep, timed: Mapping[float, Timed]) -> None:
    points = sorted(sweep.points, key=lambda p: p.flops)
    percent = [100 * p.accuracy for p in points]
    blue, grey = _COLOURS[0], "#404040"
    axes.plot([100 * p.flops for p in points], percent, color=blue, label="FLOPs")
    axes.plot([100 * p.layers for p in points], percent, color=blue, ls=":", label="layers")
    seen = [p for p in points if p.threshold in timed]
    axes.plot(
        [100 * timed[p.threshold].share for p in seen], [100 * p.accuracy for p in seen], "x",
        color="#808080", label="CPU time, measured",
    )  # fmt: skip
    for stage, (accuracy, _, flops) in zip(sweep.stages, sweep.shortcuts, strict=True):
        axes.plot(100 * flops, 100 * accuracy, "o", color=grey, markersize=5)
        axes.annotate(
            f"{stage}", (100 * flops, 100 * accuracy), (0, -13), textcoords="offset points",
            ha="center", fontsize=9, color=grey,
        )  # fmt: skip
    axes.plot([], [], "o", color=grey, markersize=5, label="one exit for all, FLOPs")
    axes.axhline(100 * sweep.last, color=grey, linewidth=0.8, linestyle="--")
    # What is inside it, so many samples cannot tell from the last exit.
    margin = 196 * math.sqrt(sweep.last * (1 - sweep.last) / sweep.samples)
    axes.axhspan(
        100 * sweep.last - margin, 100 * sweep.last + margin, color=grey, alpha=0.09, linewidth=0,
        label=f"last exit, 95 % interval of {sweep.samples:,} samples",
    )  # fmt: skip
    best = sweep.at_best
    if best is not None:
        axes.plot(
            100 * best.flops, 100 * best.accuracy, "*", color=_COLOURS[4], markersize=14,
            label=f"chosen on validation: {best.threshold:g}",
        )  # fmt: skip
    axes.set_title("accuracy, %", loc="left", fontsize=10)
    axes.set_xlabel("share of the network's compute, %")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(**_LEGEND, ncols=3)


def _answered(axes: Any, sweep: Sweep) -> None:
    """Over compute, not over the threshold: what matters lies close to one end of its range."""
    points: list[Point] = sorted(sweep.points, key=lambda p: p.flops)
    bands = [[100 * p.answered[i] for p in points] for i in range(len(sweep.stages))]
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(bands))]
    axes.stackplot(
        [100 * p.flops for p in points], bands, colors=colours, alpha=0.85,
        labels=[f"exit {stage}" for stage in sweep.stages],
    )  # fmt: skip
    best = sweep.at_best
    if best is not None:
        axes.axvline(100 * best.flops, color=_COLOURS[4], linewidth=1.5)
    axes.set_title(f"samples answered, %; by {sweep.measure}", loc="left", fontsize=10)
    axes.set_xlabel("share of the network's FLOPs, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.legend(**_LEGEND, ncols=min(6, len(bands)))
