"""How far an exit's confidence is from its accuracy, and the temperature that mends it.

Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks" (arXiv 1706.04599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from scpl_ray.evaluate import Collected

BINS = 15
BOUNDS = (0.05, 20.0)
"""A temperature's. Where every answer is right, the likeliest temperature is 0."""


@dataclass(frozen=True)
class Fitted:
    """An exit's temperature, and what it does on the samples that it was fitted on.

    Attributes:
        stage: the exit's stage.
        temperature: its logits are to be divided by it.
        loss_before: mean cross entropy of the logits as they are; `loss_after` of the divided.
        ece_before: expected calibration error, 0 to 1; `ece_after` likewise.
    """

    stage: int
    temperature: float
    loss_before: float
    loss_after: float
    ece_before: float
    ece_after: float

    @property
    def at_bound(self) -> bool:
        """Whether the fit wanted to go further than a temperature may."""
        return any(math.isclose(self.temperature, bound) for bound in BOUNDS)


def ece(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error, 0 to 1, over equal-width bins of confidence, ](m-1)/M, m/M].

    Args:
        logits: [N, C].
        labels: [N].
        bins: M.
    """
    confidence, answers = logits.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    place = torch.bucketize(confidence, edges[1:-1])
    gap = (answers == labels).double() - confidence
    # The sum over bins of n_m / N * |accuracy_m - confidence_m|; n_m cancels.
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, gap)
    return float(gaps.abs().sum()) / len(labels)


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the least mean cross entropy, within `BOUNDS`.

    The loss is convex in 1 / temperature, so a search along a line finds it.

    Args:
        logits: [N, C].
        labels: [N].
    """
    exact = logits.double()

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(exact / math.exp(log_temperature), labels))

    low, high = (math.log(bound) for bound in BOUNDS)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded").x
    # Where the loss is flat up to a bound, the search stops anywhere.
    return math.exp(next((b for b in (low, high) if loss(b) <= loss(found) + 1e-9), found))


def fit(collected: Collected) -> list[Fitted]:
    """Fits a temperature for each exit.

    Args:
        collected: of samples that were not trained on: the validation split.
    """
    labels, fitted = collected.labels, []
    for stage, logits in zip(collected.stages, collected.logits, strict=True):
        # As many digits as are written down: what is said of it is then said of what is used.
        found = round(temperature(logits, labels), 4)
        after = logits / found
        fitted.append(
            Fitted(
                stage,
                found,
                float(cross_entropy(logits, labels)),
                float(cross_entropy(after, labels)),
                ece(logits, labels),
                ece(after, labels),
            )
        )
    return fitted


def per_class(logits: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Share of right answers among the samples of each class; None where there is no sample.

    Args:
        logits: [N, C].
        labels: [N].
        classes: C.
    """
    right = torch.bincount(labels[logits.argmax(1) == labels], minlength=classes)
    there = torch.bincount(labels, minlength=classes)
    return [r / n if n else None for r, n in zip(right.tolist(), there.tolist(), strict=True)]
