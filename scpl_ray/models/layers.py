"""Ordered, named layers: how a network is described before it is cut into stages.

A layer is any `nn.Module`. A plain module is called on the hidden tensor; a subclass of
`StreamLayer` is called on the whole `Activation` (it wants the mask or the states). Each layer
also says how its output is reduced to one vector per sample, r_k [B, D], for the heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.models.activation import Activation
from scpl_ray.rng import seeded

Reduce = Callable[[Activation], Tensor]


class StreamLayer(nn.Module):
    """Base of layers whose `forward` takes and returns an `Activation`."""

    def forward(self, activation: Activation) -> Activation:
        """Computes the layer's output."""
        raise NotImplementedError


@dataclass(frozen=True)
class LayerSpec:
    """One named layer.

    Attributes:
        name: unique and stable for life; the key of its weights in checkpoints.
        build: a function without arguments that makes the module, or the finished module.
        reduce: activation -> [B, D].
        features: D. None: found by running one sample.
        channels: C of feature maps [B, C, H, W]; found likewise, for methods that take maps.
    """

    name: str
    build: Callable[[], nn.Module] | nn.Module
    reduce: Reduce
    features: int | None = None
    channels: int | None = None

    def make(self, seed: int) -> nn.Module:
        """Builds the module; its initial weights depend on (seed, name) alone."""
        if isinstance(self.build, nn.Module):
            return self.build
        with seeded(seed, "init", self.name):
            return self.build()


@dataclass(frozen=True)
class LayeredModel:
    """A whole network as an ordered list of layers.

    Attributes:
        layers: in the order in which a batch meets them.
        style: "text" or "image"; chooses the heads' default widths and activation function.
        more: how the network goes on when it grows: number of the extra layer, from 1 -> layer.
            None: it does not.
    """

    layers: tuple[LayerSpec, ...]
    style: str = "text"
    more: Callable[[int], LayerSpec] | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(layer.name for layer in self.layers)
        if not names:
            raise ValueError("a model needs at least one layer")
        if len(set(names)) != len(names):
            raise ValueError(f"layer names are not unique: {', '.join(names)}")
        object.__setattr__(self, "names", names)


def apply_layer(module: nn.Module, activation: Activation) -> Activation:
    """Runs one layer on an activation."""
    if isinstance(module, StreamLayer):
        return module(activation)
    return activation.with_hidden(module(activation.hidden))


def mean_over_tokens(activation: Activation) -> Tensor:
    """[B, T, D] -> [B, D], the mean over real tokens; a row without any gives zeros."""
    hidden, mask = activation.hidden, activation.mask
    if mask is None:
        return hidden.mean(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)


def mean_over_padded(activation: Activation) -> Tensor:
    """[B, T, D] -> [B, D], the mean over padding too, as the authors' code has it."""
    return activation.hidden.mean(1)


def mean_of_states(activation: Activation) -> Tensor:
    """LSTM: (h_forward + h_backward) / 2, from h [2, B, H] -> [B, H]."""
    return activation.states[0].mean(0)


def flatten(activation: Activation) -> Tensor:
    """[B, ...] -> [B, D]."""
    return activation.hidden.flatten(1)


def pooled(size: int) -> Reduce:
    """[B, C, H, W] -> [B, C * size * size], after adaptive average pooling."""

    def reduce(activation: Activation) -> Tensor:
        return F.adaptive_avg_pool2d(activation.hidden, size).flatten(1)

    return reduce
