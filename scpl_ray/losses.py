"""Local losses, torch only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
        z = unit_rows(_widened(features))
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


def unit_rows(x: Tensor) -> Tensor:
    """Normalises rows; near-zero rows stay as they are, so that their gradient stays finite.

    A row is divided by its largest entry first (a constant for the gradient, which is right
    because the direction does not depend on it): squares of huge entries would overflow.
    """
    largest = x.detach().abs().amax(1, keepdim=True)
    scaled = x / torch.where(largest > _TINY, largest, torch.ones_like(largest))
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(largest > _TINY, norm, torch.ones_like(norm))


def similarity_matching_loss(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean square of S(features) - S(onehot(labels)) over all pairs of the batch.

    S(x) is the adjusted cosine similarity of Nokland & Eidnes 2019 (arXiv 1901.06656): with the
    mean of a row's entries taken out of the row, S_ij = x_i.x_j / (|x_i| |x_j|). Computed in
    float32 at least, whatever autocast says.

    Args:
        features: [B, D].
        labels: [B], integers from 0.
        classes: number of classes.

    Returns:
        A scalar, finite with a finite gradient for any finite features; a constant row is similar
        to none.
    """
    with torch.autocast(features.device.type, enabled=False):
        ours = similarities(_widened(features))
        theirs = similarities(F.one_hot(labels, classes).to(ours.dtype))
        return F.mse_loss(ours, theirs)


def similarities(x: Tensor) -> Tensor:
    """[B, D] -> [B, B], adjusted cosine similarities of the rows."""
    z = unit_rows(x - x.mean(1, keepdim=True))
    return z @ z.T


def at_least_float32(x: Tensor) -> Tensor:
    """To float32, where it is not float64."""
    return x if x.dtype == torch.float64 else x.float()


def share_without_positive(labels: Tensor) -> Tensor:
    """Share of anchors [0, 1] whose class appears only once in labels [B]."""
    return (labels.bincount()[labels] == 1).float().mean()
