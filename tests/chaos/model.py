"""The network of the chaos runs: BatchNorm, dropout, steps of a definite length, named processes.

Each layer writes into the folder `who` (in the job's working folder) which process it trains in, so
that the harness can tell the stages, and a standby from a stage.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from scpl_ray.data.batch import DataInfo
from scpl_ray.models.layers import LayeredModel, LayerSpec, flatten, pooled
from tests.ray.layers_for_tests import Sleeps

WHO = "who"


class Marks(nn.Module):
    """Leaves `who/PID` with the layer's name at the first batch in each process."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.marked = name, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.marked != os.getpid():
            self.marked = os.getpid()
            folder = Path(WHO)
            folder.mkdir(exist_ok=True)
            (folder / str(self.marked)).write_text(self.name)
        return x


def build(data: DataInfo, sleep_s: float = 0.0, width: int = 8) -> LayeredModel:
    """Three layers for digits, and more as it grows; a step takes at least `sleep_s`."""
    return LayeredModel(
        (
            _conv("first", 1, width, Sleeps(sleep_s)),
            _conv("second", width, width),
            LayerSpec("third", lambda: _dense("third", width * 4, width * 4), flatten, width * 4),
        ),
        style="image",
        more=lambda n: LayerSpec(
            f"tail.{n}", lambda: _dense(f"tail.{n}", width * 4, width * 4), flatten, width * 4
        ),
    )


def _conv(name: str, inside: int, outside: int, *before: nn.Module) -> LayerSpec:
    def make() -> nn.Module:
        return nn.Sequential(
            Marks(name),
            *before,
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.1),
        )

    return LayerSpec(name, make, pooled(2), outside * 4)


def _dense(name: str, inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        Marks(name),
        nn.Flatten(),
        nn.Linear(inside, outside),
        nn.BatchNorm1d(outside),
        nn.ReLU(),
        nn.Dropout(0.1),
    )
