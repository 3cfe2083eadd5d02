"""What the driver itself must remember to go on after a crash: plain values in a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

from scpl_ray.config import Config
from scpl_ray.config.flat import flat
from scpl_ray.elastic.changes import Changes
from scpl_ray.engine.base import Failure
from scpl_ray.errors import ConfigError
from scpl_ray.exits import ExitResult
from scpl_ray.training import Training

# What may differ when a run goes on: nothing that changes its numbers.
_FREE = ("pipeline", "output", "callbacks", "fault_tolerance", "resources")


def capture(
    config: Config, training: Training, changes: Changes, step: int, failures: list[Failure]
) -> dict[str, Any]:
    """The driver's state when all work before `step` is done and counted."""
    return {
        "config": config.model_dump(mode="json"),
        "steps": training.steps,
        "samples": training.samples,
        "seconds": training.seconds,
        "skipped": list(training.skipped),
        "metrics_bytes": training.logged,
        "validation": {
            str(epoch): [dataclasses.asdict(e) for e in exits]
            for epoch, exits in training.validation.items()
        },
        "changes": changes.before(step),
        "failures": [dataclasses.asdict(failure) for failure in failures],
    }


def recall(tree: dict[str, Any], training: Training) -> None:
    """Gives a training its state back."""
    training.steps, training.samples = tree["steps"], tree["samples"]
    training.seconds, training.logged = tree["seconds"], tree["metrics_bytes"]
    training.skipped = list(tree["skipped"])
    training.validation = {
        int(epoch): [ExitResult(**e) for e in exits] for epoch, exits in tree["validation"].items()
    }


def check_same(config: Config, tree: dict[str, Any], run: str) -> None:
    """Refuses to go on with another config than the run's.

    Raises:
        ConfigError: naming the first key that differs, and both values.
    """
    own = flat({k: v for k, v in config.model_dump(mode="json").items() if k not in _FREE})
    then = flat({k: v for k, v in tree["config"].items() if k not in _FREE})
    for key in sorted({*own, *then}):
        if own.get(key) != then.get(key):
            raise ConfigError(
                f"{key}: {own.get(key)!r}, but the run {run!r} was started with "
                f"{then.get(key)!r}; --resume goes on with the run as it is (only "
                f"{', '.join(_FREE)} may differ). Leave the change out, or train under another "
                "--name"
            )
