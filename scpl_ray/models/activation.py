"""The small tree of tensors that crosses a border between stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scpl_ray.data.batch import Batch


@dataclass(frozen=True)
class Activation:
    """What one layer hands to the next.

    Attributes:
        hidden: text: token ids [B, T], then [B, T, D]; images: [B, C, H, W]; own models: any
            tensor whose first dimension is the batch.
        mask: [B, T] bool, True at real tokens; None where there is no padding.
        states: further tensors, the batch second: e.g. (h, c) of an LSTM layer, each [2, B, H].
    """

    hidden: Tensor
    mask: Tensor | None = None
    states: tuple[Tensor, ...] = ()

    def map(self, fn: Callable[[Tensor], Tensor]) -> Activation:
        """Applies a function to every tensor."""
        mask = None if self.mask is None else fn(self.mask)
        return Activation(fn(self.hidden), mask, tuple(fn(s) for s in self.states))

    def detach(self) -> Activation:
        """Cuts the gradient: nothing flows back over a border."""
        return self.map(lambda t: t.detach())

    def floats_to(self, dtype: torch.dtype) -> Activation:
        """Casts every floating tensor; token ids and the mask stay."""
        return self.map(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def with_hidden(self, hidden: Tensor, states: tuple[Tensor, ...] = ()) -> Activation:
        """Returns the same activation with another hidden tensor; states do not live on."""
        return replace(self, hidden=hidden, states=states)

    def rows(self, keep: Tensor) -> Activation:
        """Some samples of the batch.

        Args:
            keep: [B] bool, or indices. States have the batch in their second dimension.
        """
        mask = None if self.mask is None else self.mask[keep]
        return Activation(self.hidden[keep], mask, tuple(s[:, keep] for s in self.states))

    def shapes(self) -> str:
        """Describes the shapes for messages, e.g. `hidden [64, 21, 128] float32`."""
        parts = [f"hidden {list(self.hidden.shape)} {str(self.hidden.dtype)[6:]}"]
        if self.mask is not None:
            parts.append(f"mask {list(self.mask.shape)}")
        parts += [f"state {list(s.shape)}" for s in self.states]
        return ", ".join(parts)


def from_batch(
    batch: Batch, take: Callable[[np.ndarray], Tensor] = torch.tensor
) -> tuple[Activation, Tensor]:
    """Copies a batch into fresh tensors: (activation a_0, labels [B]).

    Args:
        batch: arrays that may be shared with others.
        take: makes a tensor of an array; it copies.
    """
    hidden = batch.inputs["tokens"] if "tokens" in batch.inputs else batch.inputs["images"]
    mask = batch.inputs.get("mask")
    return Activation(take(hidden), None if mask is None else take(mask)), take(batch.labels)
