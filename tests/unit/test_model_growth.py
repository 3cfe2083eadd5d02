from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scpl_ray.config import Config, dump_yaml, load_config
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import ConfigError
from scpl_ray.models import Activation, build_model
from scpl_ray.models.growth import extend, per_layer
from scpl_ray.models.layers import apply_layer
from scpl_ray.stage_facts import StageSpec
from scpl_ray.stage_module import StageModule
from tests.unit.tools import TEXT, config, image_batch, image_info, text_batch

IMAGE = image_info(1, 8, 8)
HERE = "tests.unit.elastic_layers"


def of(kind: str, **changes: Any) -> tuple[Config, DataInfo]:
    """A config of one kind with two layers of its pattern."""
    if kind == "convnet":
        return config(model__kind=kind, model__channels=[4, 6], **changes), IMAGE
    if kind == "factory":
        return config(model={"factory": f"{HERE}:bags", "options": {"layers": 2}}, **changes), TEXT
    return config(model__kind=kind, **changes), TEXT


def weights(settings: Config, info: DataInfo) -> dict[str, torch.Tensor]:
    model = build_model(settings, info)
    spec = StageSpec(1, model.names, True)
    return dict(StageModule(spec, model, settings, info.num_classes).named_state())


def shapes(settings: Config, info: DataInfo) -> list[tuple[int, ...]]:
    """Runs every layer on a batch; checks the features that each one promises."""
    activation: Activation
    activation, _ = image_batch(info, 4) if info.kind == "image" else text_batch()
    found = []
    for spec in build_model(settings, info).layers:
        activation = apply_layer(spec.make(0).eval(), activation)
        assert spec.reduce(activation).shape == (4, spec.features), spec.name
        found.append(tuple(activation.hidden.shape[1:]))
    return found


# --- how each model goes on ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names", "wanted"),
    [
        ("transformer", ["embedding", *(f"encoder.{i}" for i in range(1, 6))], [(7, 8)] * 6),
        (
            "lstm",
            ["embedding", *(f"lstm.{i}" for i in range(1, 6))],
            [(7, 8), *[(7, 16)] * 5],
        ),
        (
            "convnet",
            [f"conv.{i}" for i in range(1, 6)],
            [(4, 4, 4), (6, 2, 2), (6, 2, 2), (6, 2, 2), (6, 2, 2)],
        ),
        ("factory", ["bag", "linear.1", "more.1", "more.2", "more.3"], [(8,)] * 5),
    ],
)
def test_pattern(kind: str, names: list[str], wanted: list[tuple[int, ...]]) -> None:
    settings, info = of(kind)
    grown = extend(extend(settings, 2), 1)
    assert list(build_model(grown, info).names) == names
    assert shapes(grown, info) == wanted
    assert list(build_model(settings, info).names) == names[:-3]
    assert [g.layers for g in grown.model.grown] == [2, 1]
    assert settings.model.grown == []


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("transformer", {"model__layers": 4}),
        ("lstm", {"model__layers": 4}),
        ("convnet", {"model__channels": [4, 6, 6, 6]}),
    ],
)
def test_grown_equals_configured(kind: str, more: dict[str, Any]) -> None:
    settings, info = of(kind)
    base = settings.model.model_dump(exclude_unset=True)
    whole = load_config({"model": base | {k.removeprefix("model__"): v for k, v in more.items()}})
    there, grown = weights(whole, info), weights(extend(extend(settings)), info)
    assert list(there) == list(grown)
    for name, tensor in there.items():
        assert torch.equal(grown[name], tensor), name
    assert shapes(whole, info) == shapes(extend(settings, 2), info)


@pytest.mark.parametrize("kind", ["transformer", "lstm", "convnet", "factory"])
def test_growing_leaves_the_layers_before_as_they_are(kind: str) -> None:
    settings, info = of(kind)
    before, after = weights(settings, info), weights(extend(settings, 3), info)
    kept = [k for k in before if k.startswith("layers.")]
    assert kept
    for name in kept:
        assert torch.equal(before[name], after[name]), name


# --- layers that differ --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "wanted"),
    [
        ("transformer", {"heads": 4, "ffn": 5}, {"encoder.3.encoder.linear1.weight": (5, 8)}),
        ("transformer", {"ffn": 5}, {"encoder.2.encoder.linear1.weight": (8, 8)}),
        ("lstm", {"width": 3}, {"lstm.3.lstm.weight_ih_l0": (12, 16)}),
        ("convnet", {"channels": [5]}, {"conv.3.0.0.weight": (5, 6, 3, 3)}),
    ],
)
def test_change(kind: str, change: dict[str, Any], wanted: dict[str, tuple[int, ...]]) -> None:
    settings, info = of(kind)
    found = weights(extend(settings, 1, change), info)
    for name, shape in wanted.items():
        assert tuple(found[f"layers.{name}"].shape) == shape


def test_change_reaches_its_own_layers_only() -> None:
    grown = extend(extend(of("transformer")[0], 2, {"heads": 4, "dropout": 0.5}), 1)
    own = per_layer(grown.model, grown.model.layers)
    assert [(c.heads, c.dropout) for c in own] == [(2, 0.0)] * 2 + [(4, 0.5)] * 2 + [(2, 0.0)]
    layers = build_model(grown, TEXT).layers
    heads = [s.make(0).encoder.self_attn.num_heads for s in layers[1:]]  # type: ignore[union-attr]
    assert heads == [2, 2, 4, 4, 2]


def test_convolutions_take_one_width_each_and_the_last_goes_on() -> None:
    settings, info = of("convnet")
    grown = extend(extend(settings, 3, {"channels": [3, 5]}), 1)
    assert [s[0] for s in shapes(grown, info)] == [4, 6, 3, 5, 5, 5]


def test_convolutions_with_a_dropout_of_their_own() -> None:
    settings, info = of("convnet", model__dropout=0.1)
    grown = extend(extend(settings, 1, {"dropout": 0.5}))
    rates = [s.make(0)[-1].p for s in build_model(grown, info).layers]  # type: ignore[index]
    assert rates == [0.1, 0.1, 0.5, 0.1]


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("transformer", {"haeds": 2}, "unknown key 'haeds'; allowed: heads, ffn, dropout, factory"),
        ("transformer", {"haeds": 2}, "Did you mean 'heads'?"),
        ("transformer", {"width": 16}, "unknown key 'width'; allowed: heads, ffn, dropout"),
        ("transformer", {"layers": 2}, "unknown key 'layers'"),
        ("lstm", {"heads": 2}, "unknown key 'heads'; allowed: width, dropout, factory, options"),
        ("convnet", {"width": 2}, "unknown key 'width'; allowed: channels, dropout, factory"),
        ("convnet", {"chanels": [2]}, "Did you mean 'channels'?"),
        ("factory", {"dropout": 0.1}, "unknown key 'dropout'; allowed: factory, options."),
        ("transformer", {"heads": 3}, "heads: 3 does not divide model.width: 8; choose a divisor"),
        ("transformer", {"heads": 0}, "heads: 0 is not accepted"),
        ("transformer", {"dropout": 1.0}, "dropout: 1.0 is not accepted"),
        ("convnet", {"channels": []}, r"channels: \[\] is not accepted"),
        ("convnet", {"channels": [4, 0]}, "channels.1: 0 is not accepted"),
    ],
)
def test_change_that_is_refused(kind: str, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^layer config: .*{why}"):
        extend(of(kind)[0], 1, change)


@pytest.mark.parametrize("change", [{"dropout": "1e-2"}, {"heads": "4"}])
def test_change_as_yaml_reads_it(change: dict[str, Any]) -> None:
    grown = extend(of("transformer")[0], 1, change)
    build_model(grown, TEXT).layers[-1].make(0)


# --- factories -----------------------------------------------------------------------------------


def test_factory_without_more_says_what_to_do() -> None:
    settings = config(model={"factory": f"{HERE}:tokens"})
    assert build_model(settings, TEXT).names == ("bag", "linear")
    with pytest.raises(ConfigError, match="does not say how its network goes on.*`more`.*factory="):
        build_model(extend(settings), TEXT)
    grown = extend(settings, 1, {"factory": f"{HERE}:one"})
    assert build_model(grown, TEXT).names == ("bag", "linear", "own")


@pytest.mark.parametrize("kind", ["transformer", "factory", "lstm"])
def test_layers_of_another_factory(kind: str) -> None:
    settings, info = of(kind)
    width = 16 if kind == "lstm" else 8
    change = {"factory": f"{HERE}:one", "options": {"name": "x", "width": width}}
    grown = extend(extend(settings), 1, change)
    names = build_model(grown, info).names
    assert names == (*build_model(extend(settings), info).names, "x")


@pytest.mark.parametrize("kind", ["transformer", "factory"])
def test_a_name_that_is_taken(kind: str) -> None:
    settings, info = of(kind)
    grown = extend(extend(settings, 1, {"factory": f"{HERE}:one"}), 1, {"factory": f"{HERE}:one"})
    with pytest.raises(ConfigError, match="model.grown: layer names are not unique: .*own, own"):
        build_model(grown, info)


def test_layers_of_a_factory_keep_their_place_among_those_of_more() -> None:
    settings, info = of("factory")
    grown = extend(extend(extend(settings), 1, {"factory": f"{HERE}:one"}), 2)
    assert build_model(grown, info).names == (
        *("bag", "linear.1", "more.1", "own", "more.2", "more.3"),
    )


@pytest.mark.parametrize(("kind", "width"), [("transformer", 8), ("lstm", 16), ("convnet", 2)])
def test_the_pattern_does_not_go_on_behind_layers_of_a_factory(kind: str, width: int) -> None:
    settings, info = of(kind)
    one = {"factory": f"{HERE}:one", "options": {"width": width}}
    before = extend(settings, 1, one)
    assert build_model(before, info).names[-1] == "own"
    with pytest.raises(ConfigError, match="came from a factory"):
        extend(before)
    with pytest.raises(ConfigError, match="options: they belong to a factory"):
        extend(settings, 1, {"options": {"width": width}})


# --- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("transformer", {"heads": 4, "dropout": 0.25, "ffn": None}),
        ("convnet", {"channels": [5, 7]}),
        ("factory", {"factory": f"{HERE}:one", "options": {"name": "x"}}),
    ],
)
def test_grown_config_survives_yaml(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    settings, info = of(kind)
    grown = extend(extend(settings, 1, change), 2)
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(grown))
    again = load_config(path)
    assert again == grown
    assert build_model(again, info).names == build_model(grown, info).names
    assert load_config(grown) == grown
    assert load_config(grown, ["model.width=16"]).model.grown == grown.model.grown


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"model": {"grown": [{"layers": 1}, {"layer": 2}]}},
            [
                "unknown key 'model.grown.1.layer' (value 2)",
                "allowed here: layers, change.",
                "Did you mean 'layers'?",
            ],
        ),
        (
            {"elastic": {"grow_when": {"max_stage": 3}}},
            [
                "unknown key 'elastic.grow_when.max_stage' (value 3)",
                "allowed here: exit_accuracy_plateau, max_stages, if_resources.",
                "Did you mean 'max_stages'?",
            ],
        ),
        (
            {"elastic": {"grow_when": {"exit_accuracy_plateau": {"epoch": 3}}}},
            ["'elastic.grow_when.exit_accuracy_plateau.epoch'", "allowed here: epochs, min_delta."],
        ),
        ({"elastic": {"grow_at": {"steps": [3]}}}, ["allowed here: epoch, step."]),
        ({"elastic": {"grow_at": {"step": [0]}}}, ["elastic.grow_at.step: [0] is not accepted"]),
        ({"elastic": {"start_stages": 0}}, ["elastic.start_stages: 0 is not accepted"]),
        ({"elastic": {"timeout_s": 0}}, ["elastic.timeout_s: 0 is not accepted"]),
    ],
)
def test_config_errors(tree: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tree)
    for part in words:
        assert part in str(caught.value)
