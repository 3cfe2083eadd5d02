"""Projection heads (before the contrastive loss) and exit heads (local classifiers)."""

from __future__ import annotations

from torch import Tensor, nn

from scpl_ray.config.schema import ExitHeadConfig, ProjectionHeadConfig


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over [B, D] that accepts a batch of one (it then uses its running statistics)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises; see the class."""
        if self.training and len(input) == 1:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def projection_head(config: ProjectionHeadConfig, features: int, style: str) -> nn.Module:
    """Builds a projection head, [B, features] -> [B, out].

    Args:
        config: kind and widths.
        features: width of r_k.
        style: "text" (default widths: features) or "image" (512 hidden, 1024 out).
    """
    hidden = config.hidden or (features if style == "text" else 512)
    out = config.out or (features if style == "text" else 1024)
    if config.kind == "identity":
        return nn.Identity()
    if config.kind == "linear":
        return nn.Linear(features, out)
    if config.kind == "mlp":
        return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, out))
    if config.kind == "mlp_bn":
        return nn.Sequential(
            nn.Linear(features, hidden, bias=False),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        )
    # The projector of SimSiam (Chen & He 2021, arXiv 2011.10566, section 3).
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        BatchNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        BatchNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out, bias=False),
        BatchNorm(out, affine=False),
    )


def exit_head(config: ExitHeadConfig, features: int, classes: int, style: str) -> nn.Module:
    """Builds an exit head, [B, features] -> logits [B, classes]; Tanh for text, else Sigmoid.

    Args:
        config: kind and width.
        features: width of r_k.
        classes: number of classes.
        style: "text" (default width: features) or "image" (512).
    """
    # As wide as a feature map it would have 1e9 weights behind the first stage of VGG8.
    hidden = config.hidden or (features if style == "text" else 512)
    squash: nn.Module = nn.Tanh() if style == "text" else nn.Sigmoid()
    if config.kind == "linear":
        return nn.Linear(features, classes)
    if config.kind == "mlp":
        return nn.Sequential(nn.Linear(features, hidden), squash, nn.Linear(hidden, classes))
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        BatchNorm(hidden),
        squash,
        nn.Linear(hidden, classes),
    )
