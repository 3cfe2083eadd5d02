"""DeInfoReg (Huang, Lin & Chen, 2025, arXiv 2506.18193): variance, invariance, covariance.

With z_i the projected feature of unit length, Z the batch [B, D], and the mean taken out of each
of its columns:

    invariance  mean square of S(Z) - S(onehot(y))      S: adjusted cosine similarities in a batch
    variance    1/(B D) sum_d max(0, 1 - sqrt(var(Z_d) + 1e-7))        var: divided by B - 1
    covariance  1/D sum of the squared entries of Z^T Z / B off the diagonal
    L           a weighted sum, 1 : 1 : 1, and the cross entropy of an exit head on detach(r_k)

The text of the paper was not at hand beyond its abstract: the formulas, their divisors and weights
are what the authors' public code computes, where the "embedding of the label" is its row of the
similarity matrix. That code weighs the cross entropy by 0.001 (`local.prediction_weight`; with
Adam and a head that learns alone it changes next to nothing), lets the exit read the feature or
its projection (here: the feature), and projects images by three layers of 2,048 with BatchNorm,
text not at all (`local.projection_head`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from scpl_ray.config.schema import Config
from scpl_ray.losses import at_least_float32, similarity_matching_loss, unit_rows
from scpl_ray.objectives.base import LocalLoss, Objective, Place

_EPSILON = 1e-7


class DeInfoReg(Objective):
    """The regularised loss of the projected feature, and a detached exit head at every stage."""

    reads: ClassVar[tuple[str, ...] | None] = (
        "deinforeg",
        "projection_head",
        "exit_head",
        "prediction_weight",
    )

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        self.projection_head = self.make_projection_head()
        self.add_exit_head()

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Weighted variance + invariance + covariance, + weight x cross entropy of the exit."""
        projected = self.projection_head(reduced)
        with torch.autocast(projected.device.type, enabled=False):
            z = unit_rows(at_least_float32(projected))
            parts = {
                "variance": variance_loss(z),
                "invariance": similarity_matching_loss(z, labels, self.place.classes),
                "covariance": covariance_loss(z),
            }
            own = self.local.deinforeg
            regularised = (
                own.variance * parts["variance"]
                + own.invariance * parts["invariance"]
                + own.covariance * parts["covariance"]
            )
        prediction, logits = self.predict(reduced, labels, self.local.exit_head.detach)
        total = regularised + self.local.prediction_weight * prediction
        return LocalLoss(total, None, prediction, logits.detach(), parts)


def variance_loss(z: Tensor) -> Tensor:
    """How far the columns of z [B, D] are below a standard deviation of 1; 0 for one sample."""
    if len(z) < 2:
        return z.sum() * 0.0
    spread = (z.var(0) + _EPSILON).sqrt()
    return (1 - spread).clamp_min(0).mean() / len(z)


def covariance_loss(z: Tensor) -> Tensor:
    """Squared covariances of different columns of z [B, D], by D."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / len(z)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return off_diagonal.square().sum() / z.shape[1]
