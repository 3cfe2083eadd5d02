from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scpl_ray.losses import share_without_positive, supervised_contrastive_loss

BOTH = pytest.mark.parametrize("normalization", ["authors", "standard"])
PATTERNS = {
    "pairs": [0, 0, 1, 1, 2, 2],
    "uneven": [0, 0, 0, 0, 1, 1],
    "one_alone": [0, 0, 0, 1, 1, 2],
    "one_class": [3, 3, 3, 3, 3, 3],
    "all_different": [0, 1, 2, 3, 4, 5],
    "two_samples": [0, 0],
    "two_classes_two_samples": [0, 1],
}


def features(count: int, width: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw, dtype=torch.float64)


def by_hand(rows: list[list[float]], labels: list[int], tau: float, normalization: str) -> float:
    """The formulas with nothing but python floats."""
    unit = []
    for row in rows:
        length = math.sqrt(sum(v * v for v in row))
        unit.append([v / length for v in row])
    terms = []
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        s = {a: sum(p * q for p, q in zip(unit[i], unit[a], strict=True)) / tau for a in others}
        log_sum = math.log(sum(math.exp(v) for v in s.values()))
        positives = [a for a in others if labels[a] == labels[i]]
        total = sum(s[p] - log_sum for p in positives)
        if normalization == "authors":
            terms.append(-total / (len(positives) + 1))
        elif positives:
            terms.append(-total / len(positives))
    return sum(terms) / len(terms) if terms else 0.0


@BOTH
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_equals_the_formula(normalization: str, pattern: str, temperature: float) -> None:
    labels = PATTERNS[pattern]
    x = features(len(labels))
    loss = supervised_contrastive_loss(x, torch.tensor(labels), temperature, normalization)
    assert loss.item() == pytest.approx(
        by_hand(x.tolist(), labels, temperature, normalization), rel=1e-12, abs=1e-12
    )


def test_defaults_are_the_authors_and_a_tenth() -> None:
    x, labels = features(6), torch.tensor(PATTERNS["one_alone"])
    assert torch.equal(
        supervised_contrastive_loss(x, labels),
        supervised_contrastive_loss(x, labels, 0.1, "authors"),
    )


@BOTH
@pytest.mark.parametrize("pattern", ["pairs", "one_alone", "one_class"])
def test_gradient_is_right(normalization: str, pattern: str) -> None:
    labels = torch.tensor(PATTERNS[pattern])
    x = features(6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: supervised_contrastive_loss(f, labels, 0.5, normalization), (x,)
    )


@pytest.mark.parametrize("count", [2, 3, 6])
def test_normalizations_differ_by_p_over_p_plus_one(count: int) -> None:
    """With equally many positives P at every anchor, the ratio is P / (P + 1)."""
    labels = torch.arange(count * 2) // count
    x = features(count * 2)
    ratio = supervised_contrastive_loss(x, labels, 0.1, "authors") / supervised_contrastive_loss(
        x, labels, 0.1, "standard"
    )
    assert ratio.item() == pytest.approx((count - 1) / count, rel=1e-12)


def test_normalizations_differ_anchor_by_anchor() -> None:
    """Uneven classes: only a relation that holds for each anchor gives both sums."""
    x, labels = features(7), [0, 0, 0, 0, 1, 1, 2]
    unit = torch.nn.functional.normalize(x)
    similarity = unit @ unit.T / 0.1
    per_anchor = []
    for i in range(6):  # the seventh has no positive
        others = [a for a in range(7) if a != i]
        positives = [a for a in others if labels[a] == labels[i]]
        log_p = similarity[i, positives] - similarity[i, others].logsumexp(0)
        per_anchor.append((-log_p.mean().item(), len(positives)))
    label_tensor = torch.tensor(labels)
    standard = supervised_contrastive_loss(x, label_tensor, 0.1, "standard").item()
    authors = supervised_contrastive_loss(x, label_tensor, 0.1, "authors").item()
    assert standard == pytest.approx(sum(loss for loss, _ in per_anchor) / 6, rel=1e-12)
    assert authors == pytest.approx(
        sum(loss * p / (p + 1) for loss, p in per_anchor) / 7, rel=1e-12
    )


@BOTH
def test_scale_of_rows_does_not_matter(normalization: str) -> None:
    x, labels = features(6), torch.tensor(PATTERNS["uneven"])
    scales = torch.tensor([1e-5, 0.3, 1.0, 7.0, 1e3, 1e8], dtype=torch.float64).unsqueeze(1)
    assert supervised_contrastive_loss(x * scales, labels, 0.1, normalization).item() == (
        pytest.approx(supervised_contrastive_loss(x, labels, 0.1, normalization).item(), rel=1e-12)
    )


def loss_and_gradient(x: Tensor, labels: list[int], tau: float, kind: str) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    loss = supervised_contrastive_loss(x, torch.tensor(labels), tau, kind)
    loss.backward()
    assert x.grad is not None
    return loss.detach(), x.grad


@BOTH
@pytest.mark.parametrize("temperature", [1e-4, 1e-2, 0.1, 100.0])
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 1e-11, 0.0])
def test_always_finite(normalization: str, temperature: float, scale: float) -> None:
    for labels in (*PATTERNS.values(), [0]):
        x = (features(len(labels)) * scale).float()
        loss, gradient = loss_and_gradient(x, labels, temperature, normalization)
        assert loss.isfinite(), labels
        assert loss >= 0, labels
        assert gradient.isfinite().all(), labels


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-4, 0.1])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("labels", [PATTERNS["pairs"], PATTERNS["one_alone"], [0]])
def test_half_precision_is_finite(
    normalization: str, dtype: torch.dtype, temperature: float, scale: float, labels: list[int]
) -> None:
    x = (features(len(labels)) * scale).to(dtype)
    loss, gradient = loss_and_gradient(x, labels, temperature, normalization)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert gradient.isfinite().all()
    wide, _ = loss_and_gradient(x.float(), labels, temperature, normalization)
    assert loss.item() == pytest.approx(wide.item(), rel=1e-6)


@BOTH
def test_identical_rows_are_finite(normalization: str) -> None:
    x = torch.ones(4, 3)
    loss, gradient = loss_and_gradient(x, [0, 0, 1, 1], 1e-4, normalization)
    expected = math.log(3) * (0.5 if normalization == "authors" else 1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-4)  # float32 at logits of 10,000
    assert gradient.isfinite().all()


@BOTH
def test_some_zero_rows_are_finite(normalization: str) -> None:
    x = features(6).float()
    x[[0, 3]] = 0.0
    loss, gradient = loss_and_gradient(x, PATTERNS["pairs"], 0.1, normalization)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[1].abs().sum() > 0


@BOTH
@pytest.mark.parametrize("labels", [[0], [0, 1, 2, 3]])
def test_without_any_positive_it_is_zero(normalization: str, labels: list[int]) -> None:
    loss, gradient = loss_and_gradient(features(len(labels)), labels, 0.1, normalization)
    assert loss.item() == 0.0
    assert gradient.abs().sum() == 0.0


@BOTH
def test_autocast_changes_nothing(normalization: str) -> None:
    x, labels = features(32, 64).float(), torch.arange(32) % 4
    plain = supervised_contrastive_loss(x, labels, 0.1, normalization)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
        inside = supervised_contrastive_loss(x, labels, 0.1, normalization)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(plain.item(), abs=1e-6)


@BOTH
def test_equal_inputs_of_one_class_are_cheaper_than_mixed(normalization: str) -> None:
    together = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    good = supervised_contrastive_loss(together, torch.tensor([0, 0, 1, 1]), 0.1, normalization)
    bad = supervised_contrastive_loss(together, torch.tensor([0, 1, 0, 1]), 0.1, normalization)
    assert good < 0.01
    assert bad > 4


@pytest.mark.parametrize(
    ("shape", "count", "temperature", "normalization", "said"),
    [
        ((4,), 4, 0.1, "authors", "features must be"),
        ((4, 2, 2), 4, 0.1, "authors", r"\[4, 2, 2\]"),
        ((4, 2), 3, 0.1, "authors", "labels"),
        ((4, 2), 4, 0.0, "authors", "temperature"),
        ((4, 2), 4, -1.0, "authors", "temperature"),
        ((4, 2), 4, float("nan"), "authors", "temperature"),
        ((4, 2), 4, 0.1, "khosla", "khosla"),
    ],
)
def test_wrong_arguments(
    shape: tuple[int, ...], count: int, temperature: float, normalization: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        supervised_contrastive_loss(
            torch.ones(shape), torch.zeros(count, dtype=torch.int64), temperature, normalization
        )


@pytest.mark.parametrize(
    ("labels", "share"), [([0, 0, 1], 1 / 3), ([0, 1, 2], 1.0), ([0, 0], 0.0), ([5], 1.0)]
)
def test_share_without_positive(labels: list[int], share: float) -> None:
    assert share_without_positive(torch.tensor(labels)).item() == pytest.approx(share)
