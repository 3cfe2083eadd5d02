"""Pictures of a run's history, each for one room (matplotlib axes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scpl_ray.comparing.plot import COLOURS, short
from scpl_ray.reporting.history import History
from scpl_ray.trace_plot import PART_COLOURS

_WAITING = "#e3e6ea"
_PARTS = ("receive", "forward", "send", "loss", "backward", "optimizer", "snapshot")


def colour(number: int) -> str:
    """Of a stage, from 1, or of a run."""
    return COLOURS[(number - 1) % len(COLOURS)]


def draw_accuracy(axes: Any, history: History, changes: Sequence[tuple[int, str]] = ()) -> None:
    """Accuracy of each exit: on validation, on the training batches (pale), on the test split.

    Args:
        axes: where to draw.
        history: of the run.
        changes: step and mark of each change of the stages.
    """
    validation, test = history.of("validation"), history.of("test")
    for number, stage in sorted(history.stages.items()):
        at, values = history.smooth(number, stage.accuracies, 60)
        if not values and number not in validation:
            continue
        pale = 0.35 if number in validation else 1.0
        label = None if number in validation else f"exit {number}, training"
        axes.plot(at, _percent(values), color=colour(number), alpha=pale, lw=1, label=label)
    for number, (at, values) in sorted(validation.items()):
        axes.plot(
            at, _percent(values), color=colour(number), marker="o", ms=3.5, lw=1.6,
            label=f"exit {number}",
        )  # fmt: skip
    for number, (_, values) in sorted(test.items()):
        axes.plot(
            history.epochs(history.steps), 100 * values[-1], color=colour(number), marker="D",
            ms=6, mfc="white", ls="none", clip_on=False, zorder=3,
            label="test" if number == max(test) else None,
        )  # fmt: skip
    axes.set_ylabel("accuracy, %")
    _over_time(axes, history, changes)


def draw_losses(axes: Any, history: History, changes: Sequence[tuple[int, str]] = ()) -> None:
    """The local loss of each stage over the epochs; arguments as `draw_accuracy`."""
    for number, stage in sorted(history.stages.items()):
        at, values = history.smooth(number, stage.losses)
        axes.plot(at, values, color=colour(number), lw=1.3, label=f"stage {number}")
    axes.set_ylabel("local loss")
    _over_time(axes, history, changes)


def draw_memory(axes: Any, history: History, changes: Sequence[tuple[int, str]] = ()) -> None:
    """Memory of each stage over the epochs; arguments as `draw_accuracy`."""
    for number, stage in sorted(history.stages.items()):
        at, values = history.smooth(number, stage.memory_mib)
        if values:
            axes.plot(at, values, color=colour(number), lw=1.6, label=f"stage {number}")
    axes.set_ylabel("MiB")
    axes.set_ylim(bottom=0)
    _over_time(axes, history, changes)


def draw_shares(axes: Any, history: History) -> None:
    """What the time of each stage went into, as shares of it."""
    for number, stage in sorted(history.stages.items()):
        whole, left = sum(stage.seconds.values()) or 1.0, 0.0
        for part in (*_PARTS, "waiting"):
            share = 100 * stage.seconds.get(part, 0.0) / whole
            fill = PART_COLOURS.get(part, _WAITING)
            axes.barh(number, share, 0.62, left, color=fill, linewidth=0)
            left += share
    for part in (*_PARTS, "waiting"):
        if any(stage.seconds.get(part) for stage in history.stages.values()):
            axes.barh(0, 0, color=PART_COLOURS.get(part, _WAITING), label=part)
    numbers = sorted(history.stages)
    axes.set_yticks(numbers, [f"stage {number}" for number in numbers])
    axes.set_ylim(max(numbers, default=1) + 0.6, min(numbers, default=1) - 0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of its time, %")
    _plain(axes)


def draw_last_exits(axes: Any, runs: Sequence[tuple[str, History]]) -> None:
    """Validation accuracy of the last exit over the epochs, one line for each run."""
    for i, (name, history) in enumerate(runs, 1):
        last = [one for one in history.evaluations if one.split == "validation" and one.accuracies]
        at = [history.epochs(one.step) for one in last]
        values = [100 * one.accuracies[max(one.accuracies)] for one in last]
        axes.plot(at, values, color=colour(i), marker="o", ms=3.5, lw=1.6, label=short(name))
    axes.set_ylabel("validation accuracy, %")
    axes.set_xlabel("epochs")
    _plain(axes)


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _over_time(axes: Any, history: History, changes: Sequence[tuple[int, str]]) -> None:
    by_step: dict[int, list[str]] = {}
    for step, mark in changes:
        by_step.setdefault(step, []).append(mark)
    for step, marks in by_step.items():
        at = history.epochs(step)
        axes.axvline(at, color="#666666", lw=0.9, ls=(0, (4, 3)), zorder=0)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(
            " ".join(marks), (at, 1.0), xytext=(0, 2), ha="center", va="bottom",
            fontsize=8, color="#444444", annotation_clip=False, **place,
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("epochs")
    _plain(axes)


def _plain(axes: Any) -> None:
    """Few lines, and the names below the picture, where they hide nothing."""
    axes.grid(axis="x" if axes.get_ylim()[0] > axes.get_ylim()[1] else "y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 4 if max(map(len, labels)) < 16 else 1
        from matplotlib.transforms import ScaledTranslation

        # As far below the axes as their words need, however high they are.
        below = axes.transAxes + ScaledTranslation(0, -0.46, axes.figure.dpi_scale_trans)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
        axes.legend(
            handles, labels, ncols=columns, frameon=False, fontsize=8, handlelength=1.6,
            columnspacing=1.2, **place,
        )  # fmt: skip
