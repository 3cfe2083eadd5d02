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
        epoch_s: seconds an epoch.
        samples_per_s: training samples a second.
        speed_up: samples a second / the first row's.
        memory_mib: of its fullest stage; None: not recorded.
        idle: share of the time in which stages waited; None: not recorded.
    """

    name: str
    method: str
    runs: int
    exits: dict[int, Figure]
    epoch_s: Figure
    samples_per_s: Figure
    speed_up: float
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


def rows_of(groups: Sequence[Sequence[Run]]) -> list[Row]:
    """One row for each group of repetitions."""
    first = statistics.fmean(run.samples_per_s for run in groups[0])
    return [_row(runs, first) for runs in groups]


def _row(runs: Sequence[Run], first: float) -> Row:
    stages = sorted({stage for run in runs for stage in run.accuracy})
    exits = {stage: figure([run.accuracy.get(stage) for run in runs]) for stage in stages}
    epoch_s = figure([run.epoch_s for run in runs])
    samples = figure([run.samples_per_s for run in runs])
    assert epoch_s is not None and samples is not None
    return Row(
        re.sub(r"-seed\d+$", "", runs[0].name),
        str(runs[0].config.get("method")),
        len(runs),
        {stage: value for stage, value in exits.items() if value is not None},
        epoch_s,
        samples,
        samples.mean / first if first > 0 else 0.0,
        figure([run.memory_mib for run in runs]),
        figure([run.idle for run in runs]),
    )
