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
from scpl_ray.stage_facts import StageSpec

_WARM_UP, _LEAST_S, _MOST = 2, 0.2, 12


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
    config = config.model_copy(update={"replicas": {}})
    names = build_model(config, info).names
    inputs = [from_batch(batch) for batch in batches]
    alone, pairs = [], []
    for i, name in enumerate(names):
        seconds, outputs = _time(config, info, (name,), i + 1 == len(names), inputs, device)
        alone.append(seconds)
        if i + 1 < len(names):
            both = (name, names[i + 1])
            pairs.append(_time(config, info, both, i + 2 == len(names), inputs, device)[0])
        inputs = outputs
    return LayerTimes(names, alone, pairs)


def _time(
    config: Config,
    info: DataInfo,
    layers: tuple[str, ...],
    last: bool,
    inputs: list[tuple[Activation, Tensor]],
    device: str,
) -> tuple[float, list[tuple[Activation, Tensor]]]:
    with_exit = has_exit(config.method, 1, 1 if last else 2)
    stage = build_stage(StageSpec(1, layers, with_exit), config, info, 10**6, 10**6, device)
    times: list[float] = []
    outputs = []
    begun = time.perf_counter()
    step = 0
    while step < _WARM_UP + 3 or (
        time.perf_counter() - begun < _LEAST_S and step < _WARM_UP + _MOST
    ):
        activation, labels = inputs[step % len(inputs)]
        own = activation.map(lambda t: t.to(device, copy=True))
        start = time.perf_counter()
        output = stage.forward(step, own, labels.to(device))
        stage.update(step)
        times.append(time.perf_counter() - start)
        if step < len(inputs):
            outputs.append((output.map(lambda t: t.clone()), labels))
        step += 1
    return statistics.median(times[_WARM_UP:]), outputs
