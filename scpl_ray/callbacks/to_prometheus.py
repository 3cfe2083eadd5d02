"""Prometheus: what a run does, through the metrics that Ray exports on every node.

Ray puts `ray_` before each name. The tag is `run`, not `job`: Prometheus itself gives every target
a label `job`, and would rename ours. `cluster/grafana-dashboard.json` shows them.
"""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from scpl_ray.callbacks.base import Callback, Metrics, RunStart
from scpl_ray.exits import ExitResult

RUN_GAUGES = {
    "scpl_ray_step": "Training steps done.",
    "scpl_ray_steps_planned": "Training steps of the whole run.",
    "scpl_ray_samples_per_second": "Training samples a second over the last steps.",
    "scpl_ray_in_flight": "Pieces of work under way in the pipeline.",
    "scpl_ray_stages": "Stages that train.",
    "scpl_ray_restarts": "Faults survived: processes that died and were replaced.",
}
STAGE_GAUGES = {
    "scpl_ray_stage_loss": "Local loss of a stage, mean over the last steps.",
    "scpl_ray_stage_busy_share": "Share of computing, against waiting for work.",
    "scpl_ray_stage_waiting_share": "Share of waiting for work, against computing.",
    "scpl_ray_stage_memory_mib": "Memory of a stage's process, or of its GPU.",
}
EXIT_GAUGES = {"scpl_ray_exit_accuracy": "Accuracy of an exit, 0 to 1, by split."}
COUNTERS = {"scpl_ray_samples": "Training samples."}
HISTOGRAMS = {"scpl_ray_stage_step_seconds": "Computing in a stage's step; one step a report."}
_BOUNDS = [0.001 * 2**i for i in range(15)]
# Ray exports a gauge only if it was set since the last export (10 s by default).
_AGAIN_S = 2.0


class PrometheusCallback(Callback):
    """Hands the figures to Ray, which exports them."""

    def on_start(self, run: RunStart) -> None:
        """Registers the metrics and says where they are."""
        self.tags = {"run": run.job}
        own, stage = ("run",), ("run", "stage")
        self.gauges = {name: Gauge(name, text, own) for name, text in RUN_GAUGES.items()}
        self.gauges |= {name: Gauge(name, text, stage) for name, text in STAGE_GAUGES.items()}
        self.gauges |= {
            name: Gauge(name, text, (*stage, "split")) for name, text in EXIT_GAUGES.items()
        }
        self.counters = {name: Counter(name, text, own) for name, text in COUNTERS.items()}
        self.histograms = {
            name: Histogram(name, text, _BOUNDS, stage) for name, text in HISTOGRAMS.items()
        }
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._repeat, daemon=True, name="prometheus gauges").start()
        self._set("scpl_ray_steps_planned", run.plan.epochs * run.plan.steps_per_epoch)
        run.say(f"metrics for Prometheus, on each node of Ray; here: {endpoint()}")

    def _set(self, name: str, value: float, **tags: str) -> None:
        own = self.tags | tags
        with self._lock:
            self._values[name, tuple(own.items())] = float(value)
            self.gauges[name].set(float(value), own)

    def _repeat(self) -> None:
        """Sets all gauges again and again: a long step must not look like an end."""
        while not self._ended.wait(_AGAIN_S) and ray.is_initialized():
            with self._lock:
                for (name, tags), value in self._values.items():
                    self.gauges[name].set(value, dict(tags))

    def _forget(self, stage: str) -> None:
        """A stage has left: its gauges end; its exit still answers."""
        with self._lock:
            for key in [k for k in self._values if k[0] in STAGE_GAUGES]:
                if ("stage", stage) in key[1]:
                    del self._values[key]

    def on_metrics(self, metrics: Metrics) -> None:
        """Sets all figures."""
        self._set("scpl_ray_step", metrics.step)
        self._set("scpl_ray_samples_per_second", metrics.samples_per_second)
        self._set("scpl_ray_in_flight", metrics.in_flight)
        self._set("scpl_ray_stages", metrics.stages)
        self._set("scpl_ray_restarts", metrics.restarts)
        if metrics.samples:
            self.counters["scpl_ray_samples"].inc(metrics.samples, self.tags)
        for number, row in metrics.rows.items():
            stage = str(number)
            self._set("scpl_ray_stage_loss", row.loss, stage=stage)
            self._set("scpl_ray_stage_busy_share", row.busy, stage=stage)
            self._set("scpl_ray_stage_waiting_share", 1 - row.busy, stage=stage)
            self._set("scpl_ray_stage_memory_mib", row.memory_mib, stage=stage)
            if row.accuracy is not None:
                accuracy = row.accuracy
                self._set("scpl_ray_exit_accuracy", accuracy, stage=stage, split="training")
        for number in metrics.left:
            self._forget(str(number))
        for stats in metrics.newest:
            tags = self.tags | {"stage": str(stats.stage)}
            seconds = stats.forward_s + stats.update_s
            self.histograms["scpl_ray_stage_step_seconds"].observe(seconds, tags)

    def on_evaluate(self, split: str, epoch: int, step: int, exits: list[ExitResult]) -> None:
        """Sets the accuracy of each exit."""
        for e in exits:
            self._set("scpl_ray_exit_accuracy", e.accuracy, stage=str(e.stage), split=split)

    def on_end(self, status: str, summary: dict[str, Any]) -> None:
        """The gauges end; Ray forgets them after two of its reports."""
        self._ended.set()


def endpoint() -> str:
    """Where the metrics of this process's node can be read."""
    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own:
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return "not known"
