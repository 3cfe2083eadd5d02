"""One row for each experiment: means and standard deviations over its repetitions."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scpl_ray.comparing.runs import Run


@dataclass(frozen=True)
class Figure:
    """A mean, and the standard deviation of a sample; None: one value has none."""

    mean: float
    deviation: float | None

    def text(self, digits: int, scale: float = 1.0) -> str:
        """As people write it: 76.5 ± 0.4."""
        said = f"{self.mean * scale:,.{digits}f}"
        return said if self.deviation is None else f"{said} ± {self.deviation * scale:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        name: of its first run, without the seed.
        method: of learning.
        runs: how many.
        exits: test accuracy by stage, 0 to 1.
        validation: the same on the validation split; empty: none was held out.
        epoch_s: seconds an epoch.
        samples_per_s: training samples a second.
        speed_ups: samples a second / another row's, by that row's name.
        memory_mib: of its fullest stage; None: not recorded.
        idle: share of the time in which stages waited; None: not recorded.
    """

    name: str
    method: str
    runs: int
    exits: dict[int, Figure]
    validation: dict[int, Figure]
    epoch_s: Figure
    samples_per_s: Figure
    speed_ups: dict[str, Figure]
    memory_mib: Figure | None
    idle: Figure | None

    @property
    def last(self) -> Figure | None:
        """Accuracy of the last exit."""
        return self.exits[max(self.exits)] if self.exits else None


def figure(values: Sequence[float | None]) -> Figure | None:
    """Over the values that are there; None: none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Figure(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def rows_of(groups: Sequence[Sequence[Run]], bases: Sequence[int] = (0,)) -> list[Row]:
    """One row for each group of repetitions.

    Args:
        groups: the repetitions.
        bases: whose speed the others are held against, by their places.
    """
    return [_row(runs, [groups[i] for i in bases]) for runs in groups]


def _exits(accuracies: Sequence[dict[int, float]]) -> dict[int, Figure]:
    stages = sorted({stage for accuracy in accuracies for stage in accuracy})
    exits = {stage: figure([accuracy.get(stage) for accuracy in accuracies]) for stage in stages}
    return {stage: value for stage, value in exits.items() if value is not None}


def _speed_up(runs: Sequence[Run], base: Sequence[Run]) -> Figure | None:
    """Of repetitions that went in turns, turn by turn: both sides then saw the same machine."""
    mean = statistics.fmean(run.samples_per_s for run in base)
    paired = len(runs) == len(base)
    against = [run.samples_per_s for run in base] if paired else [mean] * len(runs)
    pairs = zip(runs, against, strict=True)
    return figure([run.samples_per_s / speed if speed > 0 else None for run, speed in pairs])


def _plain_name(runs: Sequence[Run]) -> str:
    return re.sub(r"-seed\d+$", "", runs[0].name)


def _row(runs: Sequence[Run], bases: Sequence[Sequence[Run]]) -> Row:
    speed_ups = {_plain_name(base): _speed_up(runs, base) for base in bases}
    epoch_s = figure([run.epoch_s for run in runs])
    samples = figure([run.samples_per_s for run in runs])
    assert epoch_s is not None and samples is not None
    return Row(
        _plain_name(runs),
        str(runs[0].config.get("method")),
        len(runs),
        _exits([run.accuracy for run in runs]),
        _exits([run.validation for run in runs]),
        epoch_s,
        samples,
        {name: value for name, value in speed_ups.items() if value is not None},
        figure([max(run.memory_mib, default=None) for run in runs]),
        figure([run.idle for run in runs]),
    )
