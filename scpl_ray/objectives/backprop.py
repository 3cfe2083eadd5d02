"""BP: backpropagation end to end. One cross entropy, of the classifier behind the last layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.objectives.base import LocalLoss, Objective, Place


class Backprop(Objective):
    """Cross entropy of the classifier, through all layers; earlier stages have no loss."""

    exits: ClassVar[Literal["every", "last"]] = "last"
    end_to_end: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...] | None] = ("exit_head", "prediction_weight")

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        self.add_exit_head()

    def apart(self) -> list[nn.Parameter]:
        """None: classifier and layers descend the same loss."""
        return []

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Weight x cross entropy at the last stage; zero, without a gradient, before it."""
        if self.exit_head is None:
            return LocalLoss(reduced.new_zeros(()), None, None, None)
        prediction, logits = self.predict(reduced, labels, detach=False)
        total = self.local.prediction_weight * prediction
        return LocalLoss(total, None, prediction, logits.detach())
