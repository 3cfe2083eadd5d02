"""What a run leaves in summary.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scpl_ray.config import Config
from scpl_ray.engine.base import DataReady, Failure
from scpl_ray.exits import ExitResult
from scpl_ray.stage_facts import StageSpec
from scpl_ray.versions import machine, versions


@dataclass
class Outcome:
    """How a run went.

    Attributes:
        status: "finished", or "stopped" by a command.
        steps: training steps done.
        samples: training samples seen, however many views each had.
        seconds: of training.
        selected: the epoch (from 0) whose weights were kept.
        exits: results of each split at each exit.
        digests: of each stage's weights.
        threads: CPU threads of each stage.
        grown: stages that joined.
        shrunk: stages that left.
        given_up: changes that did not come about.
        init: what was taken from another run.
        failures: faults that were survived.
        skipped: stage and step of batches that were left out.
    """

    status: str
    steps: int
    samples: int
    seconds: float
    selected: int
    exits: dict[str, list[ExitResult]]
    digests: list[str]
    threads: int
    grown: list[dict[str, Any]] = field(default_factory=list)
    shrunk: list[dict[str, Any]] = field(default_factory=list)
    given_up: list[dict[str, Any]] = field(default_factory=list)
    init: dict[str, Any] | None = None
    failures: Sequence[Failure] = ()
    skipped: Sequence[dict[str, int]] = ()


def summarize(
    config: Config, ready: DataReady, specs: list[StageSpec], outcome: Outcome
) -> dict[str, Any]:
    """Puts everything into one tree of plain values."""
    info = ready.info
    return {
        "name": config.name,
        "status": outcome.status,
        "method": config.method,
        "engine": config.pipeline.engine,
        "stages": [list(spec.layers) for spec in specs],
        "replicas": [config.replicas_of(spec.number) for spec in specs],
        "steps": outcome.steps,
        "epochs": config.train.epochs,
        "selected_epoch": outcome.selected + 1,
        "train_seconds": round(outcome.seconds, 3),
        "samples_per_second": round(outcome.samples / max(outcome.seconds, 1e-9), 1),
        "exits": _exits(specs, outcome.exits),
        "weights_sha256": outcome.digests,
        "grown": outcome.grown,
        "shrunk": outcome.shrunk,
        "given_up": outcome.given_up,
        "init_from": outcome.init,
        "skipped": list(outcome.skipped),
        "failures": [dataclasses.asdict(failure) for failure in outcome.failures],
        "data": {
            "name": info.name,
            "requested": info.requested,
            "source": info.source,
            "notice": info.notice,
            "classes": info.num_classes,
            "train": info.sizes["train"],
            "validation": info.sizes["validation"],
            "test": info.sizes["test"],
            "dropped": sum(ready.dropped.values()),
            "views": info.views,
            "label_noise": config.data.label_noise,
            "wrong_labels": info.wrong_labels,
            "train_evaluated": min(info.sizes["train"], config.evaluate.train_samples),
        },
        "seed": config.seed,
        "threads_per_stage": outcome.threads,
        "machine": machine(),
        "versions": versions(),
    }


def _exits(specs: list[StageSpec], exits: dict[str, list[ExitResult]]) -> list[dict[str, Any]]:
    by_split = {split: {e.stage: e for e in results} for split, results in exits.items()}
    rows = []
    for spec in specs:
        if not spec.with_exit:
            continue
        row: dict[str, Any] = {"stage": spec.number}
        for split in ("train", "validation", "test"):
            result = by_split.get(split, {}).get(spec.number)
            row[f"{split}_accuracy"] = None if result is None else result.accuracy
        test = by_split.get("test", {}).get(spec.number)
        rows.append({**row, "test_loss": None if test is None else test.loss})
    return rows
