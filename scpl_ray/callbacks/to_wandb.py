"""Weights & Biases: config, metrics and events of a run."""

from __future__ import annotations

import time
from typing import Any

import wandb

from scpl_ray.callbacks.base import Callback, Metrics, RunStart
from scpl_ray.exits import ExitResult


class WandbCallback(Callback):
    """Writes a run to Weights & Biases.

    Args:
        project: of yours.
        options: more for `wandb.init`: entity, group, tags, mode ("offline" needs neither a
            network nor an account; `wandb sync` sends it later), ...
    """

    def __init__(self, project: str = "scpl-ray", **options: Any) -> None:
        self.project, self.options = project, options
        self._run: Any = None
        self._events: list[list[str]] = []

    def on_start(self, run: RunStart) -> None:
        """Makes the run; its files lie in the run's folder."""
        given = {
            "project": self.project,
            "name": run.plan.name,
            "dir": str(run.folder),
            "config": run.config,
        }
        self._run = wandb.init(**{**given, **self.options})
        run.say(f"wandb: run {self._run.id} of project {self.project!r}")

    def on_metrics(self, metrics: Metrics) -> None:
        """Logs the figures."""
        self._run.log(metrics.flat(), step=metrics.step)

    def on_evaluate(self, split: str, epoch: int, step: int, exits: list[ExitResult]) -> None:
        """Logs accuracy and loss of each exit."""
        values = {f"stage_{e.stage}/{split}_accuracy": e.accuracy for e in exits}
        values |= {f"stage_{e.stage}/{split}_loss": e.loss for e in exits}
        self._run.log(values, step=step)

    def on_event(self, kind: str, text: str) -> None:
        """Keeps it for a table."""
        self._events.append([time.strftime("%Y-%m-%d %H:%M:%S"), kind, text])

    def on_end(self, status: str, summary: dict[str, Any]) -> None:
        """Adds the events and the summary, and ends the run."""
        self._run.log({"events": wandb.Table(["time", "kind", "text"], data=self._events)})
        for row in summary.get("exits", ()):
            for key, value in row.items():
                if key != "stage" and value is not None:
                    self._run.summary[f"exit_{row['stage']}/{key}"] = value
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in ("finished", "stopped") else 1)
