"""Samples of several requests in one batch, and apart again. No Ray."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from scpl_ray.models.activation import Activation


def alike(activation: Activation) -> Hashable:
    """Equal for activations that can share a batch: masked ones of any length can."""
    hidden, dtype = activation.hidden, activation.hidden.dtype
    states = tuple((s.shape[0], s.shape[2:]) for s in activation.states)
    return dtype, tuple(hidden.shape[2 if _padded(activation) else 1 :]), states


def joined(parts: Sequence[Activation]) -> Activation:
    """One batch of several that are `alike`; shorter ones are padded with zeros.

    Args:
        parts: of B_1, B_2... samples.

    Returns:
        [B_1 + B_2 + ..., ...], in order.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    states = tuple(torch.cat(same, 1) for same in zip(*(p.states for p in parts), strict=True))
    if not _padded(first):
        mask = None if first.mask is None else torch.cat([_mask(p) for p in parts])
        return Activation(torch.cat([p.hidden for p in parts]), mask, states)
    longest = max(p.hidden.shape[1] for p in parts)
    hidden = torch.cat([_longer(p.hidden, longest) for p in parts])
    return Activation(hidden, torch.cat([_longer(_mask(p), longest) for p in parts]), states)


def trimmed(activation: Activation) -> Activation:
    """Without the columns that are padding in every sample: they need not travel."""
    if not _padded(activation):
        return activation
    used = _mask(activation).any(0).nonzero()
    length = int(used.max()) + 1 if len(used) else 1
    mask = _mask(activation)[:, :length]
    return Activation(activation.hidden[:, :length], mask, activation.states)


def _padded(activation: Activation) -> bool:
    mask = activation.mask
    return mask is not None and activation.hidden.shape[:2] == mask.shape


def _mask(activation: Activation) -> Tensor:
    assert activation.mask is not None
    return activation.mask


def _longer(tensor: Tensor, length: int) -> Tensor:
    if tensor.shape[1] == length:
        return tensor
    made = tensor.new_zeros(tensor.shape[0], length, *tensor.shape[2:])
    made[:, : tensor.shape[1]] = tensor
    return made
