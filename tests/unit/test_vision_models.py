from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from scpl_ray.config import Config, load_config
from scpl_ray.errors import ConfigError
from scpl_ray.job_checks import check_before
from scpl_ray.models import build_model
from scpl_ray.models.growth import extend
from scpl_ray.models.layers import apply_layer
from tests.unit.tools import all_finite, build_stages, config, image_batch, image_info, train

NARROW: dict[str, list[int]] = {
    "vgg8": [4, 6, 6, 8, 8, 8],
    "resnet18": [4, 6, 8, 10],
    "vanillacnn": [4, 4, 4, 4, 6, 6, 6, 6],
}
PUBLISHED: dict[str, list[int]] = {
    "vgg8": [2, 2, 1, 1],
    "resnet18": [3, 2, 2, 2],
    "vanillacnn": [2, 2, 2, 2],
}
MNIST, CIFAR = image_info(1, 28, 28), image_info(3, 32, 32)
EACH = pytest.mark.parametrize("kind", NARROW)


def narrow(kind: str, **changes: Any) -> Config:
    return config(model__kind=kind, model__channels=NARROW[kind], **changes)


def shapes(settings: Config, info: Any = CIFAR) -> list[tuple[int, ...]]:
    """Runs every layer; checks the features that each one promises."""
    activation, _ = image_batch(info, 2)
    found = []
    for spec in build_model(settings, info).layers:
        activation = apply_layer(spec.make(0).eval(), activation)
        assert spec.reduce(activation).shape == (2, spec.features), spec.name
        found.append(tuple(activation.hidden.shape[1:]))
    return found


# --- as published ----------------------------------------------------------------------------------


def test_vgg8_by_hand() -> None:
    """[128, 256, M] [256, 512, M] [512, M] [512, M], then 2048 features: 512 maps of 2 x 2."""
    wanted = [(128, 32, 32), (256, 16, 16), (256, 16, 16), (512, 8, 8), (512, 4, 4), (512, 2, 2)]
    settings = config(model__kind="vgg8")
    assert shapes(settings) == wanted
    model = build_model(settings, CIFAR)
    assert model.layers[-1].features == 2048
    # 3 x 3 weights, then scale and shift of BatchNorm; no bias beside it.
    pairs = [(3, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512)]
    counted = [sum(p.numel() for p in s.make(0).parameters()) for s in model.layers]
    assert counted == [9 * a * b + 2 * b for a, b in pairs]


def test_resnet18_by_hand() -> None:
    settings = config(model__kind="resnet18")
    wanted = [(64, 32, 32)] * 3 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(512, 4, 4)] * 2
    assert shapes(settings) == wanted
    model = build_model(settings, CIFAR)
    assert model.names == ("stem", *(f"block.{i}" for i in range(1, 9)))
    assert model.layers[-1].features == 512, "global average pooling, no flattening"
    assert model.layers[0].features == 64 * 32 * 32
    total = sum(p.numel() for s in model.layers for p in s.make(0).parameters())
    # The well-known 11,173,962 of ResNet18 for CIFAR-10, without its classifier.
    assert total == 11_173_962 - (512 * 10 + 10)


def test_vanillacnn_by_hand() -> None:
    settings = config(model__kind="vanillacnn")
    wanted = [(32, 32, 32)] * 3 + [(32, 16, 16)] + [(64, 16, 16)] * 3 + [(64, 8, 8)]
    assert shapes(settings) == wanted
    model = build_model(settings, CIFAR)
    assert model.layers[-1].features == 4096
    modules = [m for s in model.layers for m in s.make(0).modules()]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in modules)
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 8
    assert all(m.bias is not None for m in convolutions)


def test_resnet_blocks_are_torchvisions() -> None:
    torch.manual_seed(0)
    spec = build_model(narrow("resnet18"), CIFAR).layers[4]
    block = spec.make(3).eval()
    assert isinstance(block, BasicBlock)
    x = torch.randn(2, 6, 16, 16)
    given = x.clone()
    with torch.no_grad():
        inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        assert torch.allclose(block(x), torch.relu(inner + x), atol=1e-6)
    assert torch.equal(x, given), "the input belongs to the stage before"


@EACH
def test_activation(kind: str) -> None:
    """leaky_relu lets 1 % of what is negative through, at every place."""
    for name, wanted, other in (
        ("relu", nn.ReLU, nn.LeakyReLU),
        ("leaky_relu", nn.LeakyReLU, nn.ReLU),
    ):
        layers = build_model(narrow(kind, model__activation=name), CIFAR).layers
        for spec in layers:
            modules = list(spec.make(0).modules())
            assert any(isinstance(m, wanted) for m in modules), spec.name
            assert not any(isinstance(m, other) for m in modules), spec.name


# --- other sizes -----------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 17, 31)])
@pytest.mark.parametrize("pool", [None, 1, 2])
def test_features_equal_the_real_width(kind: str, shape: tuple[int, ...], pool: int | None) -> None:
    settings = narrow(kind, local__pool=pool)
    shapes(settings, image_info(*shape))
    layers = build_model(settings, image_info(*shape)).layers
    if pool:
        given = [s.features for s in layers]
        per_map = pool * pool
        # The global average behind the last block of a ResNet stays.
        ends = 1 if kind == "resnet18" else per_map
        assert given[-1] == NARROW[kind][-1] * ends
        assert given[0] == NARROW[kind][0] * per_map


@EACH
@pytest.mark.parametrize("count", [1, 3, 9])
def test_another_number_of_widths(kind: str, count: int) -> None:
    if count == len(NARROW[kind]):
        pytest.skip("that is its number")
    said = f"model.channels: .* has {count} widths; {kind} takes {len(NARROW[kind])}"
    with pytest.raises(ConfigError, match=said):
        build_model(config(model__kind=kind, model__channels=[4] * count), CIFAR)


def test_vgg8_needs_sixteen_pixels() -> None:
    shapes(narrow("vgg8"), image_info(1, 16, 16))
    with pytest.raises(ConfigError, match="'vgg8' halves the image four times.* 8 x 8 pixels"):
        build_model(narrow("vgg8"), image_info(1, 8, 8))


# --- cutting and growing ---------------------------------------------------------------------------


def weights(settings: Config) -> dict[str, Tensor]:
    """Of the layers, as they are built."""
    stages = build_stages(settings, MNIST)
    return {
        name: tensor
        for stage in stages
        for name, tensor in stage.module.named_state().items()
        if name.startswith("layers.")
    }


@EACH
def test_initial_weights_do_not_depend_on_the_cut(kind: str) -> None:
    one = weights(narrow(kind, stages=PUBLISHED[kind], seed=5))
    torch.rand(7)
    for stages in (1, 3, None):
        other = weights(narrow(kind, stages=stages, seed=5))
        assert other.keys() == one.keys()
        assert all(torch.equal(other[k], v) for k, v in one.items())
    another = weights(narrow(kind, stages=1, seed=6))
    assert any(not torch.equal(another[k], v) for k, v in one.items())


@EACH
def test_cutting_does_not_change_the_answer(kind: str) -> None:
    batch, _ = image_batch(MNIST)
    answers = []
    for stages in (1, 2, PUBLISHED[kind], None):
        activation = batch
        cut = [s.module.eval() for s in build_stages(narrow(kind, stages=stages), MNIST)]
        with torch.no_grad():
            for module in cut:
                activation = module.run_layers(activation, None, 0)
            head = cut[-1].objective.exit_head
            assert head is not None
            answers.append(head(cut[-1].reduce(activation)))
    assert all(torch.equal(a, answers[0]) for a in answers)


@EACH
def test_the_first_stage_learns_the_same_whatever_comes_behind_it(kind: str) -> None:
    first = PUBLISHED[kind][0]
    rest = len(build_model(narrow(kind), MNIST).names) - first
    found = []
    for stages in ([first, rest], [first, *PUBLISHED[kind][1:]]):
        own = build_stages(narrow(kind, stages=stages), MNIST)
        before = [s.module.weights_sha256() for s in own]
        train(own, [image_batch(MNIST)] * 2)
        assert all(all_finite(s.module) for s in own)
        after = [s.module.weights_sha256() for s in own]
        assert all(a != b for a, b in zip(after, before, strict=True))
        found.append(after[0])
    assert found[0] == found[1]


@EACH
def test_growth_goes_on_without_halving(kind: str) -> None:
    settings = narrow(kind)
    before = shapes(settings, MNIST)
    grown = extend(extend(settings, 2), 1, {"channels": [5]})
    after = shapes(grown, MNIST)
    assert after[: len(before)] == before
    assert after[len(before) :] == [before[-1]] * 2 + [(5, *before[-1][1:])]
    own, more = weights(settings), weights(grown)
    assert all(torch.equal(more[k], v) for k, v in own.items())
    with pytest.raises(ConfigError, match="unknown key 'dropout'; allowed: channels, factory"):
        extend(settings, 1, {"dropout": 0.5})


# --- examples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vgg8", "resnet18"])
def test_examples_load_and_build(kind: str) -> None:
    path = Path(__file__).parents[2] / "examples" / f"mnist_{kind}.yaml"
    settings = load_config(path)
    assert (settings.model.kind, settings.data.source) == (kind, "mnist_5k")
    assert settings.stages == PUBLISHED[kind]
    check_before(settings)
    info = image_info(1, 28, 28)
    stages = build_stages(settings, info)
    assert len(stages) == 4
    assert [len(s.spec.layers) for s in stages] == PUBLISHED[kind]
    train(stages, [image_batch(info)])
    assert all(all_finite(s.module) for s in stages)
