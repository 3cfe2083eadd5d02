"""MLflow: parameters, metrics, events and the run's files, in an experiment of yours."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from scpl_ray.callbacks.base import Callback, Metrics, RunStart
from scpl_ray.config.flat import flat
from scpl_ray.exits import ExitResult
from scpl_ray.run_folder import CONFIG, SUMMARY

_FOLDER = "scpl_ray.folder"
# Limits of MLflow itself.
_PARAMS, _LONGEST = 100, 6000
_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED"}


class MlflowCallback(Callback):
    """Writes a run to MLflow; a run that is resumed goes on there too.

    Args:
        tracking_uri: a server, or a local store; default: MLflow's own (MLFLOW_TRACKING_URI).
        experiment: made if it is not there.
        run_name: default: the run's name.
        tags: more of them.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "scpl-ray",
        run_name: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        self.client = MlflowClient(tracking_uri)
        self.experiment, self.run_name, self.tags = experiment, run_name, tags or {}
        self.run_id = ""
        self._events: list[str] = []

    def on_start(self, run: RunStart) -> None:
        """Makes the run, or finds the one that goes on."""
        self.folder = run.folder
        place = str(run.folder.resolve())
        found = self.client.get_experiment_by_name(self.experiment)
        own = found.experiment_id if found else self.client.create_experiment(self.experiment)
        before: list[Any] = []
        if run.first_step:
            wanted = place.replace("'", "''")
            before = self.client.search_runs([own], f"tags.`{_FOLDER}` = '{wanted}'", max_results=1)
        if before:
            self.run_id = before[0].info.run_id
            self.client.set_terminated(self.run_id, "RUNNING")
        else:
            tags = {_FOLDER: place, "scpl_ray.job": run.job, "scpl_ray.title": run.plan.title}
            made = self.client.create_run(
                own, tags=tags | self.tags, run_name=self.run_name or run.plan.name
            )
            self.run_id = made.info.run_id
            params = [Param(k, str(v)[:_LONGEST]) for k, v in flat(run.config).items()]
            for start in range(0, len(params), _PARAMS):
                self.client.log_batch(self.run_id, params=params[start : start + _PARAMS])
        run.say(f"mlflow: run {self.run_id} of experiment {self.experiment!r}")

    def on_metrics(self, metrics: Metrics) -> None:
        """Logs the figures."""
        self._log(metrics.flat().items(), metrics.step)

    def on_evaluate(self, split: str, epoch: int, step: int, exits: list[ExitResult]) -> None:
        """Logs accuracy and loss of each exit."""
        values = {f"stage_{e.stage}/{split}_accuracy": e.accuracy for e in exits}
        values |= {f"stage_{e.stage}/{split}_loss": e.loss for e in exits}
        self._log(values.items(), step)

    def _log(self, values: Iterable[tuple[str, float]], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(k, float(v), now, step) for k, v in values if math.isfinite(v)]
        self.client.log_batch(self.run_id, metrics=metrics)

    def on_event(self, kind: str, text: str) -> None:
        """Keeps it for events.txt."""
        self._events.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {kind}: {text}")

    def on_end(self, status: str, summary: dict[str, Any]) -> None:
        """Adds config, summary and events, and ends the run."""
        for name in (CONFIG, SUMMARY):
            if (self.folder / name).is_file():
                self.client.log_artifact(self.run_id, str(self.folder / name))
        self.client.log_text(self.run_id, "\n".join(self._events) + "\n", "events.txt")
        self.client.log_batch(self.run_id, tags=[RunTag("scpl_ray.status", status)])
        self.client.set_terminated(self.run_id, _STATUS.get(status, "FAILED"))
