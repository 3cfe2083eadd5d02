"""End to end across stages: the weights of plain PyTorch, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import ConfigError, NonFiniteLossError
from scpl_ray.job_checks import check_border, check_data
from scpl_ray.models import build_model
from scpl_ray.models.layers import apply_layer
from tests.unit.tools import (
    TEXT,
    back_and_forth,
    build_stages,
    config,
    image_batch,
    image_info,
    text_batch,
)

IMAGES = image_info(3, 32, 32)
SHAPES = {
    "transformer": {"stages": [1, 1, 1]},
    "lstm": {"model__kind": "lstm", "stages": [2, 1]},
    "vgg8": {"model__kind": "vgg8", "model__channels": [4, 4, 8, 8, 8, 8], "stages": [2, 2, 1, 1]},
}
STEPS = 6


def setting(kind: str, method: str = "bp", **more: Any) -> tuple[Config, DataInfo, list[Any]]:
    settings = config(method=method, **SHAPES[kind], **more)
    if kind == "vgg8":
        activation, labels = image_batch(IMAGES)
        batches = [(activation.map(lambda t, k=k: t + 0.1 * k), labels) for k in range(STEPS)]
        return settings, IMAGES, batches
    return settings, TEXT, [text_batch(seed) for seed in range(STEPS)]


def plain_pytorch(settings: Config, info: DataInfo, batches: list[Any]) -> dict[str, Tensor]:
    """One model, one Adam, `loss.backward()`: nothing of stages but the first weights."""
    model = build_model(settings, info)
    layers = [layer.make(settings.seed) for layer in model.layers]
    reduce = model.layers[-1].reduce
    # The classifier's first weights, which depend on the seed and the last layer.
    head = build_stages(settings, info)[-1].module.objective.exit_head
    assert head is not None
    own = [p for part in (*layers, head) for p in part.parameters()]
    kind = {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9)}
    optimizer = kind[settings.optimizer.name](own, lr=settings.optimizer.lr)
    for activation, labels in batches:
        for layer in layers:
            activation = apply_layer(layer.train(), activation)
        optimizer.zero_grad()
        F.cross_entropy(head(reduce(activation)), labels).backward()
        optimizer.step()
    named = zip(model.names, layers, strict=True)
    weights = {f"layers.{n}.{k}": v for n, layer in named for k, v in layer.state_dict().items()}
    heads = head.state_dict().items()
    return weights | {f"heads.{model.names[-1]}.exit_head.{k}": v for k, v in heads}


@pytest.mark.parametrize("method", ["bp", "bp_p"])
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    # No Adam for attention: the gradient of its keys' bias is rounding alone (a softmax does not
    # see what is added to all), and Adam divides it by its own size.
    [("transformer", "sgd"), ("lstm", "adam"), ("vgg8", "adam"), ("vgg8", "sgd")],
)
def test_the_weights_are_those_of_plain_pytorch(kind: str, optimizer: str, method: str) -> None:
    settings, info, batches = setting(kind, method, optimizer__name=optimizer)
    wanted = plain_pytorch(settings, info, batches)
    stages = build_stages(settings, info)
    assert len(stages) > 1
    before = {k: v.clone() for s in stages for k, v in s.module.named_state().items()}
    for step, (activation, labels) in enumerate(batches):
        back_and_forth(stages, step, activation, labels)
    ours = {k: v for s in stages for k, v in s.module.named_state().items()}
    for name, value in wanted.items():
        assert torch.allclose(ours[name], value, atol=1e-6, rtol=0), name
    moved = [k for k in before if ours[k].is_floating_point() and not ours[k].equal(before[k])]
    assert {k.split(".")[1] for k in moved} >= {k.split(".")[1] for k in wanted}
    extra = ours.keys() - wanted.keys()
    # BP_p's earlier exits listen in; BP has none.
    assert bool(extra) is (method == "bp_p")
    assert all(".exit_head." in name and name in moved for name in extra)


def test_only_the_last_stage_has_a_loss() -> None:
    settings, info, batches = setting("transformer")
    stats = back_and_forth(build_stages(settings, info), 0, *batches[0])
    assert [s.loss > 0 for s in stats] == [False, False, True]
    assert [s.correct is None for s in stats] == [True, True, False]


def test_a_gradient_is_needed_where_stages_are_behind() -> None:
    settings, info, batches = setting("transformer")
    first, middle, last = build_stages(settings, info)
    given, labels = batches[0]
    handed = first.forward(0, given, labels)
    with pytest.raises(RuntimeError, match="gradient from behind"):
        first.update(0)
    last_given = middle.forward(0, handed.map(torch.clone), labels)
    last.forward(0, last_given.map(torch.clone), labels)
    with pytest.raises(RuntimeError, match="gradient from behind"):
        last.update(0, last_given)
    assert first.input_gradient is None


def test_a_stand_in_costs_what_a_gradient_costs() -> None:
    settings, info, batches = setting("transformer")
    first, _, last = build_stages(settings, info)
    handed = first.forward(0, *batches[0])
    stand_in = first.stand_in_gradient()
    assert stand_in is not None and stand_in.hidden.shape == handed.hidden.shape
    assert first.update(0, stand_in).step == 0
    assert last.stand_in_gradient() is None


def test_a_gradient_that_is_not_finite_stops_the_stage() -> None:
    settings, info, batches = setting("transformer")
    first = build_stages(settings, info)[0]
    handed = first.forward(0, *batches[0])
    before = first.module.weights_sha256()
    with pytest.raises(NonFiniteLossError, match="stage 1"):
        first.update(0, handed.map(lambda t: t * torch.nan if t.is_floating_point() else t))
    assert first.module.weights_sha256() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": {1: 2}}, "replicas: .*each other's gradients"),
        ({"fault_tolerance__on_nonfinite": "skip"}, "on_nonfinite: .*allowed: stop"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any], words: str) -> None:
    settings, _, _ = setting("transformer", **changes)
    with pytest.raises(ConfigError, match=words):
        check_border(settings, 3)
    check_border(settings, 1)


def test_what_is_different_is_said() -> None:
    from scpl_ray.engine.base import DataReady

    settings, info, _ = setting("lstm", train__clip_norm=1.0, pipeline__batches_per_call=4)
    ready = DataReady(info, 10, 1, 1, 1)
    said = "\n".join(check_data(settings, ready, 2))
    assert "take turns" in said
    assert "train.clip_norm: each stage clips by its own norm" in said
    assert "pipeline.batches_per_call has no effect" in said
    assert "take turns" not in "\n".join(check_data(settings, ready, 1))
