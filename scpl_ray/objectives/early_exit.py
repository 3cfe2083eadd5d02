"""Early Exit: each stage is trained by the cross entropy of its own exit, stages cut apart.

As DASCPL's prediction part with the gradient let through, and without the contrastive part. With
a single stage this is backpropagation of the whole network.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.objectives.base import LocalLoss, Objective, Place


class EarlyExit(Objective):
    """Cross entropy of an exit head on r_k, through the stage; `exit_head.detach` is not read."""

    reads: ClassVar[tuple[str, ...] | None] = ("exit_head", "prediction_weight")

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        self.add_exit_head()

    def apart(self) -> list[nn.Parameter]:
        """None: head and layers descend the same loss."""
        return []

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Weight x cross entropy of the exit."""
        prediction, logits = self.predict(reduced, labels, detach=False)
        total = self.local.prediction_weight * prediction
        return LocalLoss(total, None, prediction, logits.detach())
