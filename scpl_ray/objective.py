"""The local objective of one stage: reduced features and labels -> a loss to minimise.

| method | every stage                                       | last stage                     |
|--------|---------------------------------------------------|--------------------------------|
| scpl   | contrastive                                       | + cross entropy of its exit    |
| dascpl | contrastive + cross entropy of the exit head on   | the same: its exit head is the |
|        | the detached feature                              | network's classifier           |

The last exit head *is* the classifier on detach(r_S): a second head on the same detached feature
would learn the same thing, and one head lets the classifier's place move when stages join.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.heads import exit_head, projection_head
from scpl_ray.losses import supervised_contrastive_loss
from scpl_ray.rng import seeded


@dataclass(frozen=True)
class LocalLoss:
    """What one batch gives a stage.

    Attributes:
        total: the scalar that the stage minimises.
        contrastive: its contrastive part.
        prediction: cross entropy of the exit head, None without one.
        logits: [B, C] of the exit head, None without one.
    """

    total: Tensor
    contrastive: Tensor
    prediction: Tensor | None
    logits: Tensor | None


def has_exit(method: str, stage: int, num_stages: int) -> bool:
    """Whether a stage (from 1) answers for itself: every one in dascpl, the last in scpl."""
    return method == "dascpl" or stage == num_stages


class LocalObjective(nn.Module):
    """The heads of a stage and its loss.

    Args:
        config: `method` and `local` are read.
        features: width D of r_k.
        classes: number of classes.
        style: "text" or "image".
        with_exit: whether the stage has an exit head.
        place: name of the stage's last layer; the heads' initial weights depend on it.
    """

    def __init__(
        self, config: Config, features: int, classes: int, style: str, with_exit: bool, place: str
    ) -> None:
        super().__init__()
        self.local = config.local
        with seeded(config.seed, "init", "projection_head", place):
            self.projection_head = projection_head(self.local.projection_head, features, style)
        self.exit_head: nn.Module | None = None
        if with_exit:
            with seeded(config.seed, "init", "exit_head", place):
                self.exit_head = exit_head(self.local.exit_head, features, classes, style)

    def forward(self, reduced: Tensor, labels: Tensor) -> LocalLoss:
        """Computes the stage's loss from r_k [B, D], gradient attached, and labels [B]."""
        contrastive = supervised_contrastive_loss(
            self.projection_head(reduced),
            labels,
            self.local.temperature,
            self.local.normalization,
        )
        total = self.local.contrastive_weight * contrastive
        if self.exit_head is None:
            return LocalLoss(total, contrastive, None, None)
        logits = self.exit_head(reduced.detach() if self.local.exit_head.detach else reduced)
        prediction = F.cross_entropy(logits.float(), labels)
        total = total + self.local.prediction_weight * prediction
        return LocalLoss(total, contrastive, prediction, logits.detach())
