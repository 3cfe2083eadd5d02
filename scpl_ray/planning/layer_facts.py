"""What is known of a layer without timing it: FLOPs, parameters, activations. Needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scpl_ray.config.schema import Config
from scpl_ray.engine.transport import tensors_of
from scpl_ray.models.activation import Activation
from scpl_ray.stage import Stage

MIB = 2**20


@dataclass(frozen=True)
class Facts:
    """One layer on one batch.

    Attributes:
        flops: of its forward; a multiply-add is two.
        head_flops: of the forward of its heads and loss.
        params_mib: trainable parameters.
        head_params_mib: of its heads.
        saved_mib: kept by the forward for the backward.
        output: what it hands on.
    """

    flops: float
    head_flops: float
    params_mib: float
    head_params_mib: float
    saved_mib: float
    output: Activation


def look(stage: Stage, config: Config, given: Activation, labels: Tensor) -> Facts:
    """Runs one batch forward and counts."""
    module = stage.module
    module.train()
    params = list(module.stack.parameters())
    precise = config.train.precision == "bf16"
    with torch.autocast(stage.device.type, torch.bfloat16, enabled=precise):
        with FlopCounterMode(display=False) as counter, _saved(params) as saved:
            output = module.run_layers(given, config.seed, 0)
        with FlopCounterMode(display=False) as heads:
            module.local_loss(output.detach(), labels)
    return Facts(
        float(counter.get_total_flops()),
        float(heads.get_total_flops()),
        tensors_mib(p for p in params if p.requires_grad),
        tensors_mib(p for p in module.objective.parameters() if p.requires_grad),
        sum(saved.values()) / MIB,
        module.handed_on(output.detach()),
    )


@contextmanager
def _saved(params: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Collects the storages that autograd keeps, each once, less those of parameters."""
    own = {p.untyped_storage().data_ptr() for p in params}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # else another tensor could get the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def tensors_mib(tensors: Iterable[Tensor]) -> float:
    """Their size."""
    return sum(t.numel() * t.element_size() for t in tensors) / MIB


def activation_mib(activation: Activation) -> float:
    """What crosses a link: hidden, mask and states."""
    return tensors_mib(tensors_of(activation))
