"""Promise 1: streaming through actors gives bit for bit what one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest

import scpl_ray
from scpl_ray.errors import ConfigError
from scpl_ray.report import Reporter
from tests.helpers import small_config

pytestmark = pytest.mark.usefixtures("ray_instance")


def digests(tree: dict, **changes: object) -> list[str]:
    run = scpl_ray.train(
        tree, [f"{k.replace('__', '.')}={v}" for k, v in changes.items()], reporter=Reporter()
    )
    assert run.summary["engine"] == tree.get("pipeline", {}).get(
        "engine", changes["pipeline__engine"]
    )
    return run.summary["weights_sha256"]


@pytest.mark.parametrize(("kind", "stages"), [("transformer", 2), ("lstm", 3), ("transformer", 4)])
def test_engines_and_windows_agree(kind: str, stages: int, texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, model__kind=kind, stages=stages)
    local = digests(tree, name="local", pipeline__engine="local")
    narrow = digests(tree, name="w1", pipeline__engine="ray", pipeline__in_flight=1)
    wide = digests(tree, name="w8", pipeline__engine="ray", pipeline__in_flight=8)
    many = digests(tree, name="m3", pipeline__engine="ray", pipeline__batches_per_call=3)
    assert len(local) == stages
    assert local == narrow == wide == many


def test_ragged_last_batch_of_one(texts: Path, tmp_path: Path) -> None:
    # 150 samples: 30 test, 12 validation, 108 train; 107 + 1.
    tree = small_config(texts, tmp_path, train__batch_size=107, stages=2)
    tree["local"] = {"projection_head": {"kind": "mlp_bn"}, "exit_head": {"kind": "mlp_bn"}}
    local = digests(tree, name="local", pipeline__engine="local")
    streamed = digests(tree, name="ray", pipeline__engine="ray")
    assert local == streamed


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "scpl"},
        {"train__precision": "bf16"},
        {"pipeline__activation_dtype": "bf16", "optimizer__fused": False},
        {"train__select": "best", "train__epochs": 3},
        {"optimizer__schedule": "cosine", "optimizer__name": "sgd"},
    ],
)
def test_options_agree_too(changes: dict, texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, stages=2, **changes)
    local = digests(tree, name="local", pipeline__engine="local")
    assert local == digests(tree, name="ray", pipeline__engine="ray")


@pytest.mark.parametrize("method", ["ee", "al", "sim_pred", "deinforeg", "own"])
def test_methods_agree(
    method: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "own":
        monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
        method = "own_objective:Prototypes"
    tree = small_config(texts, tmp_path, stages=2, method=method, train__epochs=1)
    local = digests(tree, name="local", pipeline__engine="local")
    assert local == digests(tree, name="ray", pipeline__engine="ray")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("bp", {"stages": [1, 2, 1], "pipeline__in_flight": 5}),
        ("bp", {"stages": 1}),
        ("bp_p", {"stages": 2, "model__kind": "lstm", "train__select": "best"}),
        ("bp", {"stages": 2, "pipeline__activation_dtype": "bf16", "pipeline__in_flight": 1}),
    ],
)
def test_end_to_end_agrees(method: str, changes: dict, texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, method=method, **changes)
    local = digests(tree, name="local", pipeline__engine="local")
    assert local == digests(tree, name="ray", pipeline__engine="ray")


@pytest.mark.parametrize(
    ("kind", "channels"), [("convnet", [4, 8]), ("resnet18", [16] * 4), ("vanillacnn", [4] * 8)]
)
def test_image_networks_agree(kind: str, channels: list[int], tmp_path: Path) -> None:
    tree = small_config(Path("unused"), tmp_path, model__kind=kind, model__channels=channels)
    tree["stages"] = 2
    tree["data"] = {"source": "digits", "limit": 200}
    tree["resources"] = {"channels_last": True, "threads": 1}
    local = digests(tree, name="local", pipeline__engine="local")
    assert local == digests(tree, name="ray", pipeline__engine="ray")


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_huggingface_agrees(kind: str, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs scpl-ray[huggingface]")
    own = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    own |= {"model_type": kind, "hidden_dim" if kind == "distilbert" else "intermediate_size": 16}
    tree = small_config(texts, tmp_path, stages=2)
    tree["model"] = {"kind": "huggingface", "options": own}
    local = digests(tree, name="local", pipeline__engine="local")
    assert local == digests(tree, name="ray", pipeline__engine="ray")


def test_seed_decides(texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, stages=2)
    first = digests(tree, name="a", pipeline__engine="local", seed=1)
    again = digests(tree, name="b", pipeline__engine="local", seed=1)
    other = digests(tree, name="c", pipeline__engine="local", seed=2)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_cut_does_not_change_layers(texts: Path, tmp_path: Path) -> None:
    """Initial weights and dropout belong to layers: an untrained cut in 2 or 4 is the same."""
    import torch

    weights = []
    for stages in (2, 4):
        tree = small_config(texts, tmp_path, stages=stages, train__epochs=1, name=f"s{stages}")
        tree["local"] = {"contrastive_weight": 0.0}
        tree["pipeline"] = {"engine": "local"}
        run = scpl_ray.train(tree, reporter=Reporter())
        network = scpl_ray.load(run.dir)
        state: dict = {}
        for stage in network.stages:
            state |= stage.named_state()
        weights.append({k: v for k, v in state.items() if k.startswith("layers.")})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_convolution_that_crashes_in_channels_last_is_refused(
    engine: str, tmp_path: Path
) -> None:
    narrow = [4, 4, 8, 8]
    tree = small_config(Path("unused"), tmp_path, model__kind="resnet18", model__channels=narrow)
    tree |= {"stages": 2, "data": {"source": "digits", "limit": 200}}
    tree["resources"] = {"channels_last": True, "threads": 1, "device": "cpu"}
    with pytest.raises(ConfigError, match="channels_last: true, but layer block.3 .* 4 channels"):
        digests(tree, name=engine, pipeline__engine=engine)
    plain = tree | {"resources": tree["resources"] | {"channels_last": False}}
    assert digests(plain, name=engine, pipeline__engine=engine)
