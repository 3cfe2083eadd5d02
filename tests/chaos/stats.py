"""The pure parts: plans of kills, choices of targets, quantiles, tables, flatness."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

KINDS = ("stage", "standby", "data", "mailbox", "parked", "driver")


def choose(
    there: Mapping[str, Sequence[T]], targets: Sequence[str], draw: random.Random
) -> tuple[str, T] | None:
    """Draws a kind among those that are there and allowed, then one of the kind.

    Args:
        there: the processes of each kind, in a definite order.
        targets: kinds, or "any".
        draw: the source of chance.

    Returns:
        The kind and the one; None if none is there.
    """
    allowed = KINDS if "any" in targets else targets
    kinds = [kind for kind in KINDS if kind in allowed and there.get(kind)]
    if not kinds:
        return None
    kind = draw.choice(kinds)
    return kind, draw.choice(list(there[kind]))


def gaps(steps: int, kills: int, least: int, draw: random.Random, until: float = 0.92) -> list[int]:
    """Draws how many steps pass before each kill; the kills are spread over the whole run.

    Args:
        steps: of the run.
        kills: how many.
        least: steps between two kills, so that a recovery is over.
        draw: the source of chance.
        until: the part of the run in which they come.
    """
    moments = sorted(draw.uniform(0.02, until) * steps for _ in range(kills))
    before = [0.0, *moments]
    return [max(least, round(b - a)) for a, b in zip(before, moments, strict=False)]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def longest_gap(times: Sequence[float], start: float, end: float) -> float:
    """The longest time in [start, end] in which nothing of `times` happened."""
    inside = sorted(t for t in times if start < t < end)
    marks = [start, *inside, end]
    return max(b - a for a, b in pairwise(marks))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lays rows out in columns; the first row is the head, the first column on the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


@dataclass(frozen=True)
class Flatness:
    """How a series goes on after its first part.

    Attributes:
        early: the level where the first part ends.
        late: the level at the end.
        slope: change a minute.
        flat: whether it has grown by no more than is allowed.
    """

    early: float
    late: float
    slope: float
    flat: bool


def flatness(
    points: Sequence[tuple[float, float]],
    skip: float = 0.2,
    share: float = 0.05,
    least: float = 10.0,
) -> Flatness | None:
    """Judges a series of (seconds, value) by the medians of its minutes.

    The slope is the median of all slopes between two minutes (Theil and Sen): a minute in which a
    process was young does not decide it. Of less than five minutes, parts of the time are taken.

    Args:
        points: the series.
        skip: the share of the time that is left out at the beginning.
        share: the growth over the rest that still is flat, as a share of the level.
        least: the same as an amount; the larger counts.

    Returns:
        None if there are too few points.
    """
    if len(points) < 4:
        return None
    begin, end = points[0][0], points[-1][0]
    start = begin + skip * (end - begin)
    width = min(60.0, (end - start) / 5)
    if width <= 0:
        return None
    buckets: dict[int, list[tuple[float, float]]] = {}
    for at, value in points:
        if at >= start:
            buckets.setdefault(int((at - start) / width), []).append((at, value))
    series = [
        (statistics.fmean(a for a, _ in b), statistics.median(v for _, v in b))
        for _, b in sorted(buckets.items())
    ]
    slopes = [
        (v2 - v1) / (t2 - t1) * 60
        for i, (t1, v1) in enumerate(series)
        for t2, v2 in series[i + 1 :]
        if t2 > t1
    ]
    if not slopes:
        return None
    slope = statistics.median(slopes)
    ends = max(1, len(series) // 5)
    early = statistics.median(v for _, v in series[:ends])
    late = statistics.median(v for _, v in series[-ends:])
    minutes = (series[-1][0] - series[0][0]) / 60
    return Flatness(early, late, slope, slope * minutes <= max(least, share * early))
