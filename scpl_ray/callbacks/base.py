"""The interface of callbacks, and what they are given. No torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scpl_ray.exits import ExitResult
from scpl_ray.report import Plan, StageRow
from scpl_ray.stage_facts import StageStats


@dataclass(frozen=True)
class RunStart:
    """What a callback is told when training begins.

    Attributes:
        job: the job's id: no two have the same.
        plan: stages, epochs, steps.
        folder: the run's; it is there.
        config: the resolved tree.
        first_step: 0, or where a run goes on.
        say: prints a line for the user, and puts it into the log.
    """

    job: str
    plan: Plan
    folder: Path
    config: dict[str, Any]
    first_step: int
    say: Callable[[str], None]


@dataclass(frozen=True)
class Metrics:
    """The figures of a moment.

    Attributes:
        step: training steps done.
        epoch: of the newest step, from 0.
        samples: training samples since the figures before these.
        samples_per_second: over the last steps.
        in_flight: pieces of work that are under way in the pipeline.
        stages: how many train.
        restarts: processes that died and were replaced, since the run began.
        rows: of each stage that trains, by number: means over the last steps.
        newest: what each stage reported of the newest step.
        left: stages that have left.
    """

    step: int
    epoch: int
    samples: int
    samples_per_second: float
    in_flight: int
    stages: int
    restarts: int
    rows: dict[int, StageRow]
    newest: Sequence[StageStats] = ()
    left: Sequence[int] = field(default_factory=tuple)

    def flat(self) -> dict[str, float]:
        """The same as names and numbers, named as in TensorBoard: `stage_2/loss`."""
        values: dict[str, float] = {
            "epoch": self.epoch + 1,
            "samples_per_second": self.samples_per_second,
            "in_flight": self.in_flight,
            "stages": self.stages,
            "restarts": self.restarts,
        }
        for number, row in self.rows.items():
            at = f"stage_{number}"
            values |= {f"{at}/loss": row.loss, f"{at}/memory_mib": row.memory_mib}
            values |= {f"{at}/busy": row.busy, f"{at}/waiting": 1 - row.busy}
            if row.accuracy is not None:
                values[f"{at}/accuracy"] = row.accuracy
        for stats in self.newest:
            values |= {f"stage_{stats.stage}/{name}": v for name, v in stats.parts.items()}
            values[f"stage_{stats.stage}/lr"] = stats.lr
        return {name: value for name, value in values.items() if math.isfinite(value)}


class Callback:
    """Is told what a run does.

    Overwrite what you need; the options of the config are its constructor's arguments. All
    methods of one callback are called in order, by a thread of its own, so that a slow one does not
    hold up the training. One that raises is dropped: the user is told, the training goes on.
    """

    def on_start(self, run: RunStart) -> None:
        """Training begins, or goes on."""

    def on_metrics(self, metrics: Metrics) -> None:
        """Figures, every `output.report_every_s` seconds, at each evaluation and at the end."""

    def on_evaluate(self, split: str, epoch: int, step: int, exits: list[ExitResult]) -> None:
        """A split has been scored.

        Args:
            split: validation, train or test.
            epoch: from 0.
            step: training steps done.
            exits: accuracy and loss of each exit.
        """

    def on_event(self, kind: str, text: str) -> None:
        """Something has happened.

        Args:
            kind: "notice" (what must not be missed), "stages" (they have changed), or "info".
            text: a line for people.
        """

    def on_end(self, status: str, summary: dict[str, Any]) -> None:
        """The run has ended.

        Args:
            status: finished, stopped, interrupted or failed.
            summary: what summary.json says; empty if there is none.
        """
