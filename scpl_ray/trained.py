"""A finished run, in Python's hands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        dir: its folder.
        summary: what summary.json holds.
    """

    dir: Path
    summary: dict[str, Any]

    def plot(self) -> Figure:
        """Draws accuracy of each exit and loss of each stage over the epochs.

        Stages that joined or left are dashed lines, named +3 and -3. A notebook shows the figure
        where it is the last value of a cell; `savefig` writes it.

        Raises:
            CheckpointError: the run's files are gone or damaged.
        """
        from scpl_ray.reporting.facts import marks_of
        from scpl_ray.reporting.pictures import run_figure
        from scpl_ray.reporting.reading import read_told

        told = read_told(self.dir)
        return run_figure(told.history, marks_of(told), told.name)
