"""What a run writes while it goes: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from scpl_ray.engine.base import Done
from scpl_ray.exits import ExitResult
from scpl_ray.run_folder import METRICS
from scpl_ray.stage_facts import StageStats

_STEP_KEYS = ("loss", "contrastive", "prediction", "lr", "lonely_share", "memory_mib")


class MetricsLog:
    """Appends one JSON line per step and per evaluated split, and the same to TensorBoard.

    Args:
        folder: the run's folder.
        tensorboard: whether to write events too.
        resumed: bytes of the log and steps from which a run goes on; what came later is dropped.
    """

    def __init__(
        self, folder: Path, tensorboard: bool, resumed: tuple[int, int] | None = None
    ) -> None:
        path = folder / METRICS
        if resumed is not None and path.exists():
            os.truncate(path, min(resumed[0], path.stat().st_size))
        mode = "w" if resumed is None else "a"
        self._file = path.open(mode, encoding="utf-8", buffering=1)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge = None if resumed is None else resumed[1]
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def position(self) -> int:
        """Bytes of the log up to now."""
        return self._file.tell()

    def step(self, epoch: int, done: Done) -> None:
        """Logs one training step of all stages."""
        stages = [_step_row(s) for s in done.stats]
        parts = {name for s in done.stats for name in s.parts}
        step = done.stats[0].step
        self._write({"kind": "step", "step": step, "epoch": epoch, "stages": stages})
        if self._writer is not None:
            for row in stages:
                for key in (*_STEP_KEYS, "accuracy", *sorted(parts)):
                    if row.get(key) is not None:
                        self._writer.add_scalar(f"stage_{row['stage']}/{key}", row[key], step)

    def evaluation(self, split: str, epoch: int, step: int, exits: list[ExitResult]) -> None:
        """Logs the accuracy of each exit on one split, after `step` training steps."""
        rows = [dataclasses.asdict(e) for e in exits]
        self._write({"kind": split, "epoch": epoch, "step": step, "exits": rows})
        if self._writer is not None:
            for e in exits:
                self._writer.add_scalar(f"stage_{e.stage}/{split}_accuracy", e.accuracy, step)
                self._writer.add_scalar(f"stage_{e.stage}/{split}_loss", e.loss, step)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _step_row(stats: StageStats) -> dict[str, Any]:
    row = dataclasses.asdict(stats)
    del row["shapes"], row["step"]
    correct = row.pop("correct")
    row |= row.pop("parts")
    # JSON has no NaN.
    row |= {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    row["accuracy"] = None if correct is None else correct / max(1, stats.samples)
    return row
