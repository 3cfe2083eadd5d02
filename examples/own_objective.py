"""A local objective of your own: a prototype for each class, which its samples are drawn to.

An exit answers with the nearest prototype: logit_c = -|r - p_c|^2. The stage minimises the cross
entropy of that, and `pull` times the distance to the prototype of the sample's own class.

Run from this folder: scpl-ray train own_objective.yaml
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.objectives.base import LocalLoss, Objective, Place


class Nearest(nn.Module):
    """[B, D] -> logits [B, C], the less distant the higher."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(classes, features) / features**0.5)

    def forward(self, reduced: Tensor) -> Tensor:
        """Compares with each prototype."""
        return -(reduced.unsqueeze(1) - self.prototypes).square().sum(2)


class Prototypes(Objective):
    """Every stage has an exit, because `exits` says so unless it is set; see the base class."""

    def __init__(self, config: Config, place: Place, pull: float = 0.1) -> None:
        super().__init__(config, place)
        self.pull = pull
        with self.seeded("exit_head"):
            self.exit_head = Nearest(place.classes, place.features)

    def apart(self) -> list[nn.Parameter]:
        """None: prototypes and layers learn from the same loss."""
        return []

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Cross entropy + pull x distance."""
        logits = self.exit_head(reduced)
        prediction = F.cross_entropy(logits.float(), labels)
        distance = -logits.gather(1, labels.unsqueeze(1)).mean()
        total = prediction + self.pull * distance
        return LocalLoss(total, None, prediction, logits.detach(), {"distance": distance})
