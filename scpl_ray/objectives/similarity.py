"""Similarity matching and prediction (Nokland & Eidnes, ICML 2019, arXiv 1901.06656): "predsim".

    L_sim  = mean square of S(c(h)) - S(onehot(y))      S: adjusted cosine similarities in a batch
    L_pred = cross entropy of a local classifier on h, through the layers
    L      = (1 - beta) L_pred + beta L_sim             beta = 0.99

c is a 3x3 convolution for feature maps, followed in S by the standard deviation of each channel
over the positions (where there are more than three channels and more than one position, else the
map is flattened); for vectors, here r_k, c is a linear layer. Neither has a bias.

In the paper every layer is such a block, here every stage is; its local classifier is linear with
zero weights at the start (`local.exit_head.kind: linear`; ours starts at random), and feature maps
are averaged before it until they have at most 4,096 values (`local.pool`).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.losses import similarity_matching_loss
from scpl_ray.objectives.base import LocalLoss, Objective, Place


class SimilarityPrediction(Objective):
    """The similarity head, the exit head and their weighted loss."""

    takes_maps: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...] | None] = ("similarity", "exit_head")

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        channels, width = place.channels, place.features
        with self.seeded("similarity_head"):
            self.similarity_head: nn.Module = (
                nn.Linear(width, width, bias=False)
                if channels is None
                else nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            )
        self.add_exit_head()

    def apart(self) -> list[nn.Parameter]:
        """None: both losses train the layers."""
        return []

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """(1 - beta) x cross entropy + beta x similarity matching."""
        if self.place.channels is None:
            features = self.similarity_head(reduced)
        elif hidden is None:
            raise ValueError("the similarity of feature maps needs the stage's output")
        else:
            features = spread(self.similarity_head(hidden))
        similarity = similarity_matching_loss(features, labels, self.place.classes)
        prediction, logits = self.predict(reduced, labels, detach=False)
        beta = self.local.similarity.beta
        total = (1 - beta) * prediction + beta * similarity
        parts = {"similarity": similarity}
        return LocalLoss(total, None, prediction, logits.detach(), parts)


def spread(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C], standard deviations over the positions; few channels: [B, C*H*W]."""
    if maps.shape[1] > 3 and maps.shape[2] * maps.shape[3] > 1:
        return maps.flatten(2).std(2)
    return maps.flatten(1)
