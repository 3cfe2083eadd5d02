"""Local losses, torch only."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12


def supervised_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    normalization: str = "authors",
) -> Tensor:
    """Supervised contrastive loss of one batch.

    With z = features / |features|, s_ij = z_i.z_j / temperature, self pairs excluded, and
    log p_ij = s_ij - log sum_{a != i} exp(s_ia):

    - "standard" (Khosla et al. 2020, arXiv 2004.11362, L_out): the mean over the anchors that
      have positives of -1/|P(i)| sum_{p in P(i)} log p_ip;
    - "authors" (SCPL's public code): the mean over all anchors of
      -1/(|P(i)| + 1) sum_{p in P(i)} log p_ip; an anchor without positives contributes 0.

    The similarity and the softmax are computed in float32 at least, whatever autocast says.

    Args:
        features: [B, D], any floating type; normalised inside.
        labels: [B], integers.
        temperature: above 0.
        normalization: "authors" or "standard".

    Returns:
        A scalar, finite with a finite gradient for any finite features.

    Raises:
        ValueError: wrong shapes, temperature or normalization.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must be [B, D] and labels [B] (got {list(features.shape)}, "
            f"{list(labels.shape)})"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0 (got {temperature})")
    if normalization not in ("authors", "standard"):
        raise ValueError(f"normalization is 'authors' or 'standard' (got {normalization!r})")
    with torch.autocast(features.device.type, enabled=False):
        z = _unit(_widened(features))
        if len(z) < 2:
            return z.sum() * 0.0
        own = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similarity = (z @ z.T / temperature).masked_fill(own, float("-inf"))
        log_p = similarity - similarity.logsumexp(1, keepdim=True)
        positive = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~own
        total = log_p.masked_fill(~positive, 0.0).sum(1)
        count = positive.sum(1)
        if normalization == "authors":
            return -(total / (count + 1)).mean()
        anchors = (count > 0).sum().clamp_min(1)
        return -(total / count.clamp_min(1)).sum() / anchors


def _widened(features: Tensor) -> Tensor:
    """To float32 at least; float16 ends at 65504, so a steeper gradient is cut there, not inf."""
    if features.dtype == torch.float64:
        return features
    wide = features.float()
    if features.dtype == torch.float16 and wide.requires_grad:
        top = torch.finfo(torch.float16).max
        wide.register_hook(lambda gradient: gradient.clamp(-top, top))
    return wide


def _unit(x: Tensor) -> Tensor:
    """Normalises rows; near-zero rows stay as they are, so that their gradient stays finite.

    A row is divided by its largest entry first (a constant for the gradient, which is right
    because the direction does not depend on it): squares of huge entries would overflow.
    """
    largest = x.detach().abs().amax(1, keepdim=True)
    scaled = x / torch.where(largest > _TINY, largest, torch.ones_like(largest))
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(largest > _TINY, norm, torch.ones_like(norm))


def share_without_positive(labels: Tensor) -> Tensor:
    """Share of anchors [0, 1] whose class appears only once in labels [B]."""
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    return (same.sum(1) == 1).float().mean()
