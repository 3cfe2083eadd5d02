"""What layers cost: measured on real batches, as stages, in a process like a stage's own.

Each layer is measured as a stage of its own, and behind its neighbour. A stage of the layers i..j
then costs

    alone(i) + sum over m in i+1..j of (pair(m-1, m) - alone(m-1))

because each difference holds the layer m inside a stage (with the gradient of its input, which the
first layer of a stage has no need of) and the step of the heads from behind m-1 to behind m.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.engine.build import build_stage
from scpl_ray.models.activation import Activation, from_batch
from scpl_ray.models.registry import build_model
from scpl_ray.objective import has_exit
from scpl_ray.stage import Stage
from scpl_ray.stage_facts import StageSpec

_WARM_UP, _LEAST_S, _MOST = 2, 0.3, 12

Input = tuple[Activation, Tensor]


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of a whole step: forward, loss, backward, update, heads included.

    Attributes:
        names: of the layers.
        alone: of each layer as a stage.
        pairs: of each layer and the one before it as a stage; one fewer.
    """

    names: tuple[str, ...]
    alone: list[float]
    pairs: list[float]

    def of(self, first: int, last: int) -> float:
        """Seconds of a stage that holds the layers first..last, from 0."""
        inside = (self.pairs[m - 1] - self.alone[m - 1] for m in range(first + 1, last + 1))
        return max(self.alone[first] + sum(inside), 1e-9)


def measure_layers(
    config: Config, info: DataInfo, batches: Sequence[Batch], device: str
) -> LayerTimes:
    """Measures every layer; the process's threads and allocator are set by the caller.

    Args:
        config: the run's config; `stages` and `replicas` are not read.
        info: what the data is.
        batches: real training batches; more steps than batches use them again.
        device: "cpu" or "cuda".
    """
    names = build_model(config, info).names
    inputs = [from_batch(batch) for batch in batches]
    alone, pairs = [], []
    for i, name in enumerate(names):
        one = layer_stage(config, info, (name,), i + 1 == len(names), device)
        parts, outputs = time_stage(one, inputs)
        alone.append(parts.whole_s)
        if i + 1 < len(names):
            both = layer_stage(config, info, (name, names[i + 1]), i + 2 == len(names), device)
            pairs.append(time_stage(both, inputs)[0].whole_s)
        inputs = outputs
    return LayerTimes(names, alone, pairs)


def layer_stage(
    config: Config, info: DataInfo, names: tuple[str, ...], last: bool, device: str = "cpu"
) -> Stage:
    """Consecutive layers as a stage of their own, with the heads that it would have."""
    config = config.model_copy(update={"replicas": {}})
    with_exit = has_exit(config.method, 1, 1 if last else 2)
    return build_stage(StageSpec(1, names, with_exit), config, info, 10**6, 10**6, device)


@dataclass(frozen=True)
class Parts:
    """Seconds of one step; `optimizer_s` is in `update_s`."""

    forward_s: float
    update_s: float
    optimizer_s: float

    @property
    def whole_s(self) -> float:
        """All of it."""
        return self.forward_s + self.update_s


def time_stage(stage: Stage, inputs: Sequence[Input]) -> tuple[Parts, list[Input]]:
    """Medians of a stage's steps, and what it hands on for each input.

    Args:
        stage: a fresh one.
        inputs: used again where more steps are needed.
    """
    rows: list[tuple[float, float, float]] = []
    outputs: list[Input] = []
    begun, step = time.perf_counter(), 0
    while step < _WARM_UP + 3 or (
        time.perf_counter() - begun < _LEAST_S and step < _WARM_UP + _MOST
    ):
        activation, labels = inputs[step % len(inputs)]
        own = activation.map(lambda t: t.to(stage.device, copy=True))
        there = labels.to(stage.device)
        start = time.perf_counter()
        output = stage.forward(step, own, there)
        middle = time.perf_counter()
        stats = stage.update(step, stage.stand_in_gradient())
        update = time.perf_counter() - middle
        optimizer = max(0.0, stats.update_s - stats.loss_s - stats.backward_s)
        rows.append((middle - start, update, optimizer))
        if step < len(inputs):
            outputs.append((output.map(lambda t: t.clone()), labels))
        step += 1
    return Parts(*map(statistics.median, zip(*rows[_WARM_UP:], strict=True))), outputs
