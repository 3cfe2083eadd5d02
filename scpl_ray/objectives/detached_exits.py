"""BP_p: backpropagation end to end, and a detached exit head at every stage that listens in.

The last stage's exit head is the classifier, and its cross entropy the loss of the whole network;
the layers of earlier stages have no local loss and live from the gradient of the stage behind.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.objectives.base import LocalLoss, Objective, Place


class DetachedExits(Objective):
    """Cross entropy of the exit head: through the layers at the last stage, else detached."""

    end_to_end: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...] | None] = ("exit_head", "prediction_weight")

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        self.add_exit_head()

    def apart(self) -> list[nn.Parameter]:
        """Every exit head but the classifier."""
        return [] if self.place.last else super().apart()

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Weight x cross entropy of the exit."""
        prediction, logits = self.predict(reduced, labels, detach=not self.place.last)
        total = self.local.prediction_weight * prediction
        return LocalLoss(total, None, prediction, logits.detach())
