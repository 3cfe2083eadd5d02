"""Draws a soak: memory by role over time, with the kills; below it processes and storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.run import Kill
from tests.chaos.samples import Sample

MISSING = "matplotlib is not installed; it is needed for --png only: pip install matplotlib"
_MARKS = {"stage": "v", "standby": "^", "data": "s", "mailbox": "P", "parked": "D", "driver": "X"}


def check() -> None:
    """Whether a picture can be drawn.

    Raises:
        ImportError: says how to install matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(MISSING) from None


def draw(path: Path, samples: Sequence[Sample], kills: Sequence[Kill], began: float) -> None:
    """Writes the PNG.

    Args:
        path: of the file.
        samples: what was seen.
        kills: with times since 1970.
        began: the beginning, in seconds since 1970.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(12, 8), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    minutes = [s.at / 60 for s in samples]
    names = sorted({role for s in samples for role in s.uss}, key=_order)
    colors = plt.get_cmap("tab20")
    for number, role in enumerate(names):
        values = [s.uss.get(role, float("nan")) for s in samples]
        top.plot(minutes, values, label=role, color=colors(number % 20), linewidth=1.4)
    highest = max((v for s in samples for v in s.uss.values()), default=1.0)
    for kind, mark in _MARKS.items():
        at = [(k.at - began) / 60 for k in kills if k.kind == kind]
        if at:
            height = [highest * 1.06] * len(at)
            label = f"killed: {kind} ({len(at)})"
            top.plot(at, height, mark, color="black", markersize=6, label=label, linestyle="none")
        for moment in at:
            top.axvline(moment, color="0.85", linewidth=0.8, zorder=0)
    top.set_ylim(0, highest * 1.12)
    top.set_ylabel("memory of its own (USS), MiB")
    top.set_title(f"Memory of a job by role, {len(kills)} processes killed on the way")
    top.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    lower: dict[str, list[Any]] = {
        "processes": [s.processes for s in samples],
        "actors": [s.actors for s in samples],
        "open files of the driver": [s.driver_fds for s in samples],
        "files in the run folder": [s.files for s in samples],
        "object store, MiB": [s.object_store_mib for s in samples],
    }
    for label, values in lower.items():
        bottom.plot(minutes, values, label=label, linewidth=1.2)
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("minutes")
    bottom.set_ylabel("count or MiB")
    bottom.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _order(role: str) -> tuple[int, str]:
    known = ["driver", "data", "stage 1", "stage 2", "stage 3", "standby", "parked", "mailbox"]
    return (known.index(role) if role in known else len(known), role)
