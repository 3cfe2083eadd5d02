"""Gradients that cross a border backwards, for methods that train end to end. Torch only.

stage k:    input (a leaf) -> output;  backward from [own loss, output] with [1, gradient]
stage k-1:  is given the gradient of that leaf
"""

from __future__ import annotations

import torch
from torch import Tensor

from scpl_ray.models.activation import Activation


def as_leaf(activation: Activation) -> Activation:
    """Has the floating tensors of a stage's input gather a gradient; they belong to it alone."""
    return activation.map(lambda t: t.requires_grad_() if t.is_floating_point() else t)


def gradient_of(leaf: Activation) -> Activation:
    """The gradient of each floating tensor of an input, zeros where none came; the rest empty."""
    return leaf.map(_gradient)


def _gradient(leaf: Tensor) -> Tensor:
    if not leaf.is_floating_point():
        return leaf.new_zeros(0)
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.contiguous()


def backward(total: Tensor, output: Activation, gradient: Activation | None) -> None:
    """Differentiates a stage's own loss, and its output against the gradient from behind.

    Args:
        total: the stage's loss; without a gradient if it has none of its own.
        output: of the stage, gradient attached.
        gradient: as `gradient_of` gives it; None: none comes.
    """
    roots: list[Tensor] = [total] if total.requires_grad else []
    given: list[Tensor | None] = [None] * len(roots)
    if gradient is not None:
        own = (output.hidden, *output.states)
        came = (gradient.hidden, *gradient.states)
        for tensor, back in zip(own, came, strict=True):
            if tensor.requires_grad:
                roots.append(tensor)
                given.append(back.to(tensor.dtype))
    if roots:
        torch.autograd.backward(roots, given)


def stand_in(output: Activation) -> Activation:
    """A gradient of ones, where only the time of a step counts."""
    return output.map(lambda t: torch.ones_like(t) if t.is_floating_point() else t.new_zeros(0))
