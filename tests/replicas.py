"""What replicas of a slow stage bring: `python -m tests.replicas`.

The slow layer waits as it would for a device of its own, so that two cores can stand for several
devices; what Ray, the exchange of gradients and the schedule cost is real.
"""

from __future__ import annotations

import time
from typing import Any

import click
from torch import Tensor, nn

from scpl_ray.bench.pipeline import measure
from scpl_ray.config import load_config
from scpl_ray.data.batch import DataInfo
from scpl_ray.models.layers import LayeredModel, LayerSpec, flatten


class Waits(nn.Module):
    """A layer that takes its time without a core."""

    def __init__(self, before: int, width: int, seconds: float) -> None:
        super().__init__()
        self.linear, self.seconds = nn.Linear(before, width), seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        out: Tensor = self.linear(x.flatten(1)).relu()
        return out


def build(data: DataInfo, waits_s: list[float], width: int) -> LayeredModel:
    """One layer for each waiting time."""

    def numbered(i: int, seconds: float) -> LayerSpec:
        before = 64 if i == 1 else width
        return LayerSpec(f"waits.{i}", lambda: Waits(before, width, seconds), flatten, width)

    return LayeredModel(tuple(numbered(i, s) for i, s in enumerate(waits_s, 1)), "image")


@click.command()
@click.option("--steps", default=40, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--slow", default=0.12, show_default=True, help="Seconds of stage 2.")
@click.option("--others", default=0.03, show_default=True, help="Seconds of stages 1 and 3.")
@click.option("--width", default=512, show_default=True)
def main(steps: int, repeats: int, slow: float, others: float, width: int) -> None:
    """Prints the step with 1, 2, 3 and 4 replicas of stage 2."""
    tree: dict[str, Any] = {
        "name": "replicas",
        "data": {"source": "digits"},
        "model": {
            "factory": "tests.replicas:build",
            "options": {"waits_s": [others, slow, others], "width": width},
        },
        "train": {"batch_size": 64, "epochs": 1000},
        "resources": {"threads": 1},
    }
    first = 0.0
    for count in (1, 2, 3, 4):
        more = {"replicas": {2: count}} if count > 1 else {"pipeline": {"batches_per_call": 1}}
        found = measure(load_config(tree | more), steps, repeats)
        first = first or found.step_ms
        least = 1000 * max(slow / count, others)
        click.echo(
            f"replicas of stage 2: {count}   step {found.step_ms:6.1f} ms   "
            f"{first / found.step_ms:4.2f} x   waiting alone: {least:.1f} ms"
        )


if __name__ == "__main__":
    main()
