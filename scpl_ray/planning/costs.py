"""What each layer costs: the input of every prediction; given in a file, measured or estimated.

A stage of the layers i..j costs, per batch,

    forward = sum of forward_s
    update  = sum of update_s, + input_grad_s of all but the first layer, + head_s of the last

because the first layer of a stage has no need of its input's gradient, and only the last layer of
a stage has heads behind it. No torch here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scpl_ray.errors import ConfigError, unknown
from scpl_ray.planning.simulation import StageTimes

_FLAGS = ("repeats", "estimated")


@dataclass(frozen=True)
class LayerCost:
    """One layer on one batch; seconds and MiB.

    Attributes:
        name: of the layer.
        forward_s: its forward.
        update_s: its backward as the first layer of a stage, and its optimizer step; no heads.
        head_s: heads behind it, if it ends a stage: forward, loss, backward, optimizer.
        params_mib: its trainable parameters.
        activation_mib: the output that it hands on.
        saved_mib: what its forward keeps for its backward.
        flops: of its forward; 0: not known.
        input_grad_s: what the gradient of its input adds, behind another layer of its stage.
        optimizer_s: the optimizer's part of `update_s`.
        backward_s: both gradients in end-to-end backpropagation; None: 2 x forward_s, since each
            gradient takes as many products as the forward.
        head_params_mib: parameters of the heads behind it.
    """

    name: str
    forward_s: float
    update_s: float
    head_s: float = 0.0
    params_mib: float = 0.0
    activation_mib: float = 0.0
    saved_mib: float = 0.0
    flops: float = 0.0
    input_grad_s: float = 0.0
    optimizer_s: float = 0.0
    backward_s: float | None = None
    head_params_mib: float = 0.0

    @property
    def full_backward_s(self) -> float:
        """Both gradients, in end-to-end backpropagation."""
        return 2 * self.forward_s if self.backward_s is None else self.backward_s


@dataclass(frozen=True)
class Costs:
    """All layers, in order.

    Attributes:
        layers: their costs.
        source: where they are from, in a few words.
        repeats: whether the model can go on with more layers like the last one.
        estimated: computed from published peaks, not measured.
        input_mib: a batch as stage 1 is given it.
        data_s: seconds that the data process needs for a batch.
        copy_s_mib: seconds to copy a MiB into the transport or out of it.
    """

    layers: tuple[LayerCost, ...]
    source: str = "given"
    repeats: bool = True
    estimated: bool = False
    input_mib: float = 0.0
    data_s: float = 0.0
    copy_s_mib: float = 0.0

    def stage_seconds(self, first: int, last: int) -> float:
        """A whole step of a stage of the layers first..last, from 0: what a cut balances."""
        return self.stage_times(first, last, len(self.layers)).seconds

    def stage_times(self, first: int, last: int, count: int | None = None) -> StageTimes:
        """The parts of a step of a stage of the layers first..last.

        Args:
            first: from 0.
            last: included.
            count: layers of the network; the very last one hands nothing on.
        """
        own = self.layers[first : last + 1]
        end = last + 1 == (len(self.layers) if count is None else count)
        given = self.layers[first - 1].activation_mib if first else self.input_mib
        handed = 0.0 if end else own[-1].activation_mib
        update = sum(c.update_s for c in own) + sum(c.input_grad_s for c in own[1:])
        return StageTimes(
            forward_s=sum(c.forward_s for c in own),
            update_s=max(0.0, update + own[-1].head_s),
            receive_s=given * self.copy_s_mib,
            send_s=handed * self.copy_s_mib,
            output_mib=handed,
        )


def longer(costs: Costs, layers: int) -> Costs:
    """The same network with its last layer repeated until there are so many layers.

    Raises:
        ConfigError: the model does not say how it goes on.
    """
    have = len(costs.layers)
    if layers <= have:
        return costs
    if not costs.repeats:
        raise ConfigError(
            f"--stages: {layers} is more than the {have} layers of the model, and it does not say "
            f"how it goes on (LayeredModel.more, or `repeats: true` in a file of costs); "
            f"allowed: 1 to {have}"
        )
    last = costs.layers[-1]
    more = [
        dataclasses.replace(last, name=f"{last.name} +{i}") for i in range(1, layers - have + 1)
    ]
    return dataclasses.replace(costs, layers=(*costs.layers, *more))


def read_costs(path: str | Path, repeats: bool = True) -> Costs:
    """Reads a JSON or YAML file: a list of layers, or {layers: [...], input_mib: ...}.

    What `plan --json` prints can be given too: its `costs` are read.

    Args:
        path: the file.
        repeats: whether the model can go on, where the file does not say.

    Raises:
        ConfigError: naming the file, the layer and the key.
    """
    try:
        found: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--costs: {path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--costs: {path}: neither JSON nor YAML: {error}") from error
    if isinstance(found, Mapping) and "costs" in found:
        found = found["costs"]
    whole = dict(found) if isinstance(found, Mapping) else {"layers": found}
    allowed = [f.name for f in dataclasses.fields(Costs) if f.name != "source"]
    whole.pop("source", None)
    for key in whole:
        if key not in allowed:
            raise ConfigError(f"--costs: {path}: {unknown('key', str(key), allowed)}")
    layers = whole.pop("layers", None)
    if not isinstance(layers, list) or not layers:
        raise ConfigError(
            f"--costs: {path}: give a list of layers, each {{name: ..., forward_s: ..., "
            "update_s: ...}"
        )
    for key in _FLAGS:
        if not isinstance(whole.get(key, False), bool):
            raise ConfigError(f"--costs: {path}: {key}: {whole[key]!r} is not true or false")
    given: dict[str, Any] = {"source": f"given by {path}", "repeats": repeats}
    given |= {k: v if k in _FLAGS else _number(path, k, v) for k, v in whole.items()}
    return Costs(tuple(_layer(path, i, row) for i, row in enumerate(layers, 1)), **given)


def _layer(path: str | Path, number: int, row: Any) -> LayerCost:
    where = f"layers[{number}]"
    if not isinstance(row, Mapping):
        raise ConfigError(f"--costs: {path}: {where}: {row!r} is no layer with keys")
    allowed = [f.name for f in dataclasses.fields(LayerCost)]
    for key in row:
        if key not in allowed:
            raise ConfigError(f"--costs: {path}: {where}: {unknown('key', str(key), allowed)}")
    missing = [key for key in ("forward_s", "update_s") if key not in row]
    if missing:
        raise ConfigError(f"--costs: {path}: {where}: {' and '.join(missing)} is missing")
    values: dict[str, Any] = {
        key: _number(path, f"{where}.{key}", value, negative=key == "input_grad_s")
        for key, value in row.items()
        if key != "name" and not (key == "backward_s" and value is None)
    }
    return LayerCost(name=str(row.get("name", f"layer {number}")), **values)


def _number(path: str | Path, key: str, value: Any, negative: bool = False) -> float:
    # YAML 1.1 reads 1e-3 as a text; float() does not mind.
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    # A measured difference may fall a little below 0.
    if not math.isfinite(number) or isinstance(value, bool) or (number < 0 and not negative):
        raise ConfigError(f"--costs: {path}: {key}: {value!r} is not a number of 0 or more")
    return number
