"""SCPL and DASCPL: supervised contrastive loss, and exits that learn from the detached feature.

| method | every stage                                       | last stage                     |
|--------|---------------------------------------------------|--------------------------------|
| scpl   | contrastive                                       | + cross entropy of its exit    |
| dascpl | contrastive + cross entropy of the exit head on   | the same: its exit head is the |
|        | the detached feature                              | network's classifier           |

The last exit head *is* the classifier on detach(r_S): a second head on the same detached feature
would learn the same thing, and one head lets the classifier's place move when stages join.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from scpl_ray.config.schema import Config
from scpl_ray.losses import supervised_contrastive_loss
from scpl_ray.objectives.base import LocalLoss, Objective, Place


class Dascpl(Objective):
    """Contrastive loss of the projected feature, and an exit head at every stage."""

    needs_positives: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...] | None] = (
        "temperature",
        "normalization",
        "contrastive_weight",
        "prediction_weight",
        "projection_head",
        "exit_head",
    )

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        self.projection_head = self.make_projection_head()
        self.add_exit_head()

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Weight x contrastive, + weight x cross entropy where there is an exit."""
        contrastive = supervised_contrastive_loss(
            self.projection_head(reduced),
            labels,
            self.local.temperature,
            self.local.normalization,
        )
        total = self.local.contrastive_weight * contrastive
        if self.exit_head is None:
            return LocalLoss(total, contrastive, None, None)
        prediction, logits = self.predict(reduced, labels, self.local.exit_head.detach)
        total = total + self.local.prediction_weight * prediction
        return LocalLoss(total, contrastive, prediction, logits.detach())


class Scpl(Dascpl):
    """The same with an exit at the last stage alone."""

    exits: ClassVar[Literal["every", "last"]] = "last"
