"""What metrics.jsonl tells of a run over time, read once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scpl_ray.errors import CheckpointError
from scpl_ray.run_folder import METRICS

# More points than a picture has room for would only make it heavy.
_POINTS = 300
_PARTS = ("receive", "send", "loss", "backward", "snapshot")


@dataclass
class Stage:
    """One stage over time.

    Attributes:
        steps: that it trained on.
        losses: its local loss at each of them; None where it was not finite.
        accuracies: of its exit on the batch; None without an exit.
        memory_mib: of its process, or of its GPU.
        seconds: what its time went into, summed: the parts of a step, and "waiting".
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    accuracies: list[float | None] = field(default_factory=list)
    memory_mib: list[float | None] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def busy_s(self) -> float:
        """Seconds of computing."""
        return sum(self.seconds.get(k, 0.0) for k in ("forward", "loss", "backward", "optimizer"))

    @property
    def waiting(self) -> float | None:
        """Share of waiting, against computing; None: nothing was measured."""
        waited = self.seconds.get("waiting", 0.0)
        whole = waited + self.busy_s
        return waited / whole if whole > 0 else None


@dataclass(frozen=True)
class Evaluated:
    """A split that was scored: accuracy of each exit, by stage, after some steps."""

    split: str
    epoch: int
    step: int
    accuracies: dict[int, float]


@dataclass
class History:
    """A run over time.

    Attributes:
        stages: by number.
        evaluations: in order.
        starts: the first step that was seen of each epoch (from 0).
        steps: one more than the last step.
    """

    stages: dict[int, Stage] = field(default_factory=dict)
    evaluations: list[Evaluated] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; of a run that did not end its first one, the steps that it had."""
        gaps = [
            self.starts[e + 1] - start for e, start in self.starts.items() if e + 1 in self.starts
        ]
        return max(gaps, default=self.steps) or 1

    def epochs(self, step: float) -> float:
        """Epochs that have passed before a step."""
        return step / self.steps_per_epoch

    def of(self, split: str) -> dict[int, tuple[list[float], list[float]]]:
        """The accuracies of a split by stage: (epochs, accuracies)."""
        curves: dict[int, tuple[list[float], list[float]]] = {}
        for one in self.evaluations:
            for stage, accuracy in one.accuracies.items() if one.split == split else ():
                at, values = curves.setdefault(stage, ([], []))
                at.append(self.epochs(one.step))
                values.append(accuracy)
        return curves

    def smooth(
        self, stage: int, values: list[float | None], points: int = _POINTS
    ) -> tuple[list[float], list[float]]:
        """Means over equal pieces of the run: (epochs, means).

        Args:
            stage: its number.
            values: one for each of the stage's steps.
            points: how many pieces at most.
        """
        piece = max(1, -(-self.steps // points))
        sums: dict[int, list[float]] = {}
        for step, value in zip(self.stages[stage].steps, values, strict=True):
            if value is not None:
                sums.setdefault(step // piece, []).append(value)
        at = [self.epochs((i + 0.5) * piece if piece > 1 else i + 1) for i in sums]
        return at, [sum(v) / len(v) for v in sums.values()]


def read_history(folder: Path) -> History:
    """Reads a run's metrics.

    Raises:
        CheckpointError: there are none, or they are damaged; names the line.
    """
    path = folder / METRICS
    history = History()
    lines = 0
    try:
        for row in _rows(path):
            lines += 1
            if row["kind"] == "step":
                _step(history, row)
            else:
                accuracies = {int(e["stage"]): float(e["accuracy"]) for e in row["exits"]}
                place = int(row["epoch"]), int(row["step"])
                history.evaluations.append(Evaluated(str(row["kind"]), *place, accuracies))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no {METRICS} in it, so there is nothing to report; train it again with "
            "--overwrite"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except _Damaged as error:
        raise CheckpointError(f"{path}:{lines + 1}: damaged, not JSON: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}:{lines}: not a line of a run's metrics ({type(error).__name__}: {error})"
        ) from error
    return history


class _Damaged(Exception):
    """A line that is no JSON."""


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the file; the last of a run that was killed may be half a line."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise _Damaged(str(error)) from None


def _step(history: History, row: dict[str, Any]) -> None:
    step, epoch = int(row["step"]), int(row["epoch"])
    history.steps = max(history.steps, step + 1)
    history.starts.setdefault(epoch, step)
    for own in row["stages"]:
        stage = history.stages.setdefault(int(own["stage"]), Stage())
        stage.steps.append(step)
        stage.losses.append(_number(own["loss"]))
        stage.accuracies.append(_number(own.get("accuracy")))
        stage.memory_mib.append(_number(own.get("memory_mib")) or None)
        forward, update = float(own["forward_s"]), float(own["update_s"])
        spent = {part: _number(own.get(f"{part}_s")) or 0.0 for part in _PARTS}
        spent["forward"] = forward
        spent["optimizer"] = max(0.0, update - spent["loss"] - spent["backward"])
        spent["waiting"] = _number(own.get("waiting_s")) or 0.0
        for part, seconds in spent.items():
            stage.seconds[part] = stage.seconds.get(part, 0.0) + seconds


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
