from __future__ import annotations

import pytest
import torch
from torch import nn

from scpl_ray.config.schema import ExitHeadConfig, ProjectionHeadConfig
from scpl_ray.heads import BatchNorm, exit_head, projection_head

PROJECTIONS = ["linear", "mlp", "mlp_bn", "simsiam"]
EXITS = ["linear", "mlp", "mlp_bn"]


def linears(module: nn.Module) -> list[tuple[int, int]]:
    found = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [(m.in_features, m.out_features) for m in found]


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize(("style", "hidden", "out"), [("text", 24, 24), ("image", 512, 1024)])
def test_projection_default_widths(kind: str, style: str, hidden: int, out: int) -> None:
    head = projection_head(ProjectionHeadConfig(kind=kind), 24, style)
    assert head(torch.randn(3, 24)).shape == (3, out)
    widths = {
        "linear": [(24, out)],
        "mlp": [(24, hidden), (hidden, out)],
        "mlp_bn": [(24, hidden), (hidden, out)],
        "simsiam": [(24, hidden), (hidden, hidden), (hidden, out)],
    }
    assert linears(head) == widths[kind]


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize("style", ["text", "image"])
def test_projection_configured_widths(kind: str, style: str) -> None:
    head = projection_head(ProjectionHeadConfig(kind=kind, hidden=5, out=7), 24, style)
    assert head(torch.randn(3, 24)).shape == (3, 7)
    assert {n for pair in linears(head) for n in pair} == (
        {24, 7} if kind == "linear" else {24, 5, 7}
    )


@pytest.mark.parametrize("style", ["text", "image"])
def test_identity_projection_has_no_weights(style: str) -> None:
    head = projection_head(ProjectionHeadConfig(kind="identity", out=7), 24, style)
    x = torch.randn(3, 24)
    assert torch.equal(head(x), x)
    assert list(head.parameters()) == []


def test_batchnorm_places() -> None:
    def norms(kind: str) -> list[BatchNorm]:
        head = projection_head(ProjectionHeadConfig(kind=kind), 8, "text")
        return [m for m in head.modules() if isinstance(m, BatchNorm)]

    assert len(norms("mlp")) == 0
    assert [n.affine for n in norms("mlp_bn")] == [True]
    assert [n.affine for n in norms("simsiam")] == [True, True, False]
    first = next(
        m
        for m in projection_head(ProjectionHeadConfig(kind="mlp_bn"), 8, "text").modules()
        if isinstance(m, nn.Linear)
    )
    assert first.bias is None


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("style", ["text", "image"])
@pytest.mark.parametrize("hidden", [None, 5])
def test_exit_widths(kind: str, style: str, hidden: int | None) -> None:
    head = exit_head(ExitHeadConfig(kind=kind, hidden=hidden), 24, 3, style)
    assert head(torch.randn(4, 24)).shape == (4, 3)
    inner = hidden or (24 if style == "text" else 512)
    assert linears(head) == ([(24, 3)] if kind == "linear" else [(24, inner), (inner, 3)])


@pytest.mark.parametrize("kind", ["mlp", "mlp_bn"])
@pytest.mark.parametrize(("style", "wanted"), [("text", nn.Tanh), ("image", nn.Sigmoid)])
def test_exit_activation(kind: str, style: str, wanted: type) -> None:
    head = exit_head(ExitHeadConfig(kind=kind), 8, 3, style)
    squashes = [m for m in head.modules() if isinstance(m, nn.Tanh | nn.Sigmoid)]
    assert [type(m) for m in squashes] == [wanted]


@pytest.mark.parametrize(
    "head",
    [
        projection_head(ProjectionHeadConfig(kind="mlp_bn"), 8, "text"),
        projection_head(ProjectionHeadConfig(kind="simsiam"), 8, "text"),
        exit_head(ExitHeadConfig(kind="mlp_bn"), 8, 3, "text"),
    ],
    ids=["mlp_bn", "simsiam", "exit"],
)
def test_batch_of_one_in_training(head: nn.Module) -> None:
    head.train()
    x = torch.randn(1, 8, requires_grad=True)
    out = head(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert out.abs().sum() > 0  # its own mean would take everything away


def test_batch_of_one_leaves_the_running_statistics_alone() -> None:
    norm = BatchNorm(4).train()
    norm(torch.full((1, 4), 9.0))
    assert torch.equal(norm.running_mean, torch.zeros(4))
    norm(torch.full((2, 4), 9.0))
    assert norm.running_mean.tolist() == pytest.approx([0.9] * 4)


def test_larger_batches_are_normalised_as_ever() -> None:
    ours, theirs = BatchNorm(4).train(), nn.BatchNorm1d(4).train()
    x = torch.randn(5, 4)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
