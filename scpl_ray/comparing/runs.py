"""What a finished run's folder says, in the figures that a comparison needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scpl_ray.errors import ConfigError
from scpl_ray.run_folder import CONFIG, METRICS, SUMMARY

# What may differ between repetitions of one experiment, by dotted key.
_OWN = ("name", "seed", "output", "callbacks")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        path: its folder.
        name: its name.
        config: the resolved tree.
        accuracy: on the test split, by stage.
        validation: accuracy on the validation split, by stage; empty: none was held out.
        epoch_s: seconds of training an epoch, evaluation included.
        samples_per_s: training samples a second.
        memory_mib: the most of each stage; empty: not recorded.
        idle: share of the time in which stages waited, mean of the stages; None: not recorded.
    """

    path: Path
    name: str
    config: dict[str, Any]
    accuracy: dict[int, float]
    validation: dict[int, float]
    epoch_s: float
    samples_per_s: float
    memory_mib: tuple[float, ...]
    idle: float | None

    @property
    def experiment(self) -> str:
        """Equal for runs that differ in their seed and name only."""
        tree = {k: v for k, v in self.config.items() if k not in _OWN}
        return json.dumps(tree, sort_keys=True, default=str)


def read_run(path: str | Path) -> Run:
    """Reads a run's folder.

    Raises:
        ConfigError: it is none, or the run has not finished.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder}: not the folder of a run (no {CONFIG} in it)")
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        accuracy, validation = (
            {
                int(row["stage"]): float(row[key])
                for row in summary["exits"]
                if row.get(key) is not None
            }
            for key in ("test_accuracy", "validation_accuracy")
        )
        epochs = max(1, int(summary["epochs"]))
        seconds, speed = float(summary["train_seconds"]), float(summary["samples_per_second"])
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: the run has not finished (no {SUMMARY} in it); "
            f"scpl-ray train {folder / CONFIG} --resume goes on with it"
        ) from None
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder}: cannot be read as a run: {error}") from error
    memory, idle = _stages(folder / METRICS)
    return Run(
        folder, config["name"], config, accuracy, validation, seconds / epochs, speed, memory, idle
    )


def _stages(path: Path) -> tuple[tuple[float, ...], float | None]:
    """The most memory of each stage, and the mean share of waiting."""
    if not path.is_file():
        return (), None
    most: dict[int, float] = {}
    waited: dict[int, float] = {}
    busy: dict[int, float] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            for one in row.get("stages", ()):
                stage = one["stage"]
                most[stage] = max(most.get(stage, 0.0), one.get("memory_mib") or 0.0)
                waited[stage] = waited.get(stage, 0.0) + (one.get("waiting_s") or 0.0)
                busy[stage] = busy.get(stage, 0.0) + one["forward_s"] + one["update_s"]
    shares = [waited[s] / (waited[s] + busy[s]) for s in busy if waited[s] + busy[s] > 0]
    recorded = tuple(most[stage] for stage in sorted(most)) if any(most.values()) else ()
    return recorded, sum(shares) / len(shares) if shares else None


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Puts repetitions of one experiment together, in the order of their first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.experiment, []).append(run)
    return list(groups.values())
