"""Memory of each device. Pure.

    parameters + gradients (1 x) + optimizer state + activations kept for the backward
    + the input's copy and the output that is on its way

Parameters, gradients and states are in FP32, also under bf16 autocast. Not in it: the process and
the runtime themselves (an idle CUDA context is some 0.5 GiB), workspaces, and fragmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scpl_ray.planning.costs import Costs, LayerCost


@dataclass(frozen=True)
class Memory:
    """MiB on one device.

    Attributes:
        parameters: of layers and heads.
        gradients: as many.
        optimizer: its state.
        saved: activations that the backward needs.
        copies: input and output.
    """

    parameters: float
    gradients: float
    optimizer: float
    saved: float
    copies: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.saved + self.copies


def optimizer_states(name: str, momentum: float) -> int:
    """Tensors that an optimizer keeps for each parameter: Adam two, SGD with momentum one."""
    if name in ("adam", "adamw"):
        return 2
    return 1 if momentum > 0 else 0


def stage_memory(costs: Costs, first: int, last: int, states: int) -> Memory:
    """A stage of ours: it keeps the activations of one batch, whatever stages come behind it.

    Args:
        costs: of the layers.
        first: layer, from 0.
        last: layer, included.
        states: optimizer tensors for each parameter.
    """
    own = costs.layers[first : last + 1]
    given = costs.layers[first - 1].activation_mib if first else costs.input_mib
    handed = 0.0 if last + 1 == len(costs.layers) else own[-1].activation_mib
    saved = sum(c.saved_mib for c in own)
    return _memory(own, states, saved, given + handed)


def backprop_memory(costs: Costs, first: int, last: int, states: int, saved: float) -> Memory:
    """A stage of end-to-end backpropagation; the classifier is on the last one.

    Args:
        costs: of the layers.
        first: layer, from 0.
        last: layer, included.
        states: optimizer tensors for each parameter.
        saved: the most activations that it keeps at once, over its micro-batches.
    """
    own = costs.layers[first : last + 1]
    heads = last + 1 == len(costs.layers)
    given = costs.layers[first - 1].activation_mib if first else costs.input_mib
    return _memory(own, states, saved, given, heads)


def _memory(
    own: Sequence[LayerCost], states: int, saved: float, copies: float, heads: bool = True
) -> Memory:
    params = sum(c.params_mib for c in own) + (own[-1].head_params_mib if heads else 0.0)
    return Memory(params, params, states * params, saved, copies)
