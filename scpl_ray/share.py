"""What one replica of a stage brings into a round: gradients of its batch. Torch only, no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """One batch's part of a round.

    Attributes:
        gradients: of the stage's parameters, in order; None: a parameter that took no part.
        buffers: the module's buffers as the batch left them, in order.
    """

    gradients: list[Tensor | None]
    buffers: list[Tensor]


@torch.no_grad()
def put_mean(
    shares: Sequence[Share], parameters: Sequence[Tensor], buffers: Sequence[Tensor]
) -> None:
    """Gives parameters the mean gradient, and buffers the mean of what they were.

    The sum is taken in the order of the batches, so that it is the same to the bit whoever takes
    it. Buffers that are not real numbers (counts) are equal in all shares.

    Args:
        shares: of one round, in the order of its batches; at least one.
        parameters: get `grad`.
        buffers: are overwritten.
    """
    for i, parameter in enumerate(parameters):
        parts = [g for share in shares if (g := share.gradients[i]) is not None]
        parameter.grad = _sum(parts, parameter).div_(len(shares)) if parts else None
    for i, buffer in enumerate(buffers):
        parts = [share.buffers[i] for share in shares]
        if buffer.is_floating_point():
            buffer.copy_(_sum(parts, buffer).div_(len(shares)))
        else:
            buffer.copy_(parts[0])


def _sum(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    total = parts[0].to(like.device, copy=True)
    for part in parts[1:]:
        total.add_(part.to(like.device))
    return total
