"""BP: backpropagation end to end. One cross entropy, of the classifier behind the last layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from scpl_ray.objectives.base import LocalLoss
from scpl_ray.objectives.early_exit import EarlyExit


class Backprop(EarlyExit):
    """Cross entropy of the classifier, through all layers; earlier stages have no loss."""

    exits: ClassVar[Literal["every", "last"]] = "last"
    end_to_end: ClassVar[bool] = True

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Weight x cross entropy at the last stage; zero, without a gradient, before it."""
        if self.exit_head is None:
            return LocalLoss(reduced.new_zeros(()), None, None, None)
        return super().forward(reduced, labels, hidden)
