from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import ConfigError
from scpl_ray.models import Activation, LayeredModel, LayerSpec, build_model
from scpl_ray.models.layers import apply_layer, mean_over_tokens
from scpl_ray.models.text import BiLSTM, TokenEmbedding
from scpl_ray.stage_module import StageModule
from tests.unit.tools import (
    TEXT,
    all_finite,
    build_stages,
    config,
    image_batch,
    image_info,
    modules,
    text_batch,
    train,
)

TEXT_MODELS: dict[str, dict[str, Any]] = {
    "transformer": {"kind": "transformer"},
    "transformer_sinusoidal": {"kind": "transformer", "positional": "sinusoidal"},
    "transformer_none": {"kind": "transformer", "positional": "none"},
    "transformer_projected": {"kind": "transformer", "embedding_width": 6},
    "lstm": {"kind": "lstm"},
    "lstm_wide_embedding": {"kind": "lstm", "embedding_width": 12},
}
EACH_TEXT_MODEL = pytest.mark.parametrize("name", TEXT_MODELS)


def text_config(name: str, **changes: Any) -> Config:
    return config(**{f"model__{k}": v for k, v in TEXT_MODELS[name].items()}, **changes)


def answers(stages: list[StageModule], activation: Activation) -> list[tuple[Tensor, Tensor]]:
    """(r_k, logits) of every stage."""
    out = []
    for stage in stages:
        activation = stage.run_layers(activation, None, 0)
        r = stage.reduce(activation)
        assert stage.objective.exit_head is not None
        out.append((r, stage.objective.exit_head(r)))
    return out


# --- padding -------------------------------------------------------------------------------------


@EACH_TEXT_MODEL
@pytest.mark.parametrize("learning", [True, False])
def test_padding_changes_no_answer(name: str, learning: bool) -> None:
    """Without gradients torch takes another path through its encoder."""
    stages = modules(text_config(name))
    batch, _ = text_batch(0, (3, 9, 1, 6))
    assert batch.mask is not None
    with torch.set_grad_enabled(learning):
        together = answers(stages, batch)
        for row, length in enumerate((3, 9, 1, 6)):
            tokens = batch.hidden[row : row + 1, :length]
            alone = answers(stages, Activation(tokens, batch.mask[row : row + 1, :length]))
            bare = answers(stages, Activation(tokens, None))
            for k in range(3):
                for got in (alone[k], bare[k]):
                    assert torch.allclose(together[k][0][row], got[0][0], atol=1e-5), (k, row)
                    assert torch.allclose(together[k][1][row], got[1][0], atol=1e-5), (k, row)


@EACH_TEXT_MODEL
def test_what_stands_at_padding_is_not_read(name: str) -> None:
    stages = modules(text_config(name))
    batch, _ = text_batch(0, (3, 9))
    assert batch.mask is not None
    soiled = torch.where(batch.mask, batch.hidden, torch.full_like(batch.hidden, 7))
    with torch.no_grad():
        clean, other = answers(stages, batch), answers(stages, Activation(soiled, batch.mask))
    for (r, logits), (r2, logits2) in zip(clean, other, strict=True):
        assert torch.allclose(r, r2, atol=1e-6)
        assert torch.allclose(logits, logits2, atol=1e-6)


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_mean_over_padding_only_if_asked(kind: str) -> None:
    stage = modules(config(model__kind=kind, model__mean_over="padded"))[0]
    batch, _ = text_batch(0, (3, 9))
    assert batch.mask is not None
    with torch.no_grad():
        together = stage.reduce(stage.run_layers(batch, None, 0))[0]
        alone = stage.reduce(
            stage.run_layers(Activation(batch.hidden[:1, :3], batch.mask[:1, :3]), None, 0)
        )[0]
    assert not torch.allclose(together, alone, atol=1e-3)


def test_mean_over_tokens_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_over_tokens(Activation(hidden, mask)).tolist() == [[2.0], [0.0]]
    assert mean_over_tokens(Activation(hidden)).tolist() == [[pytest.approx(104 / 3)], [5.0]]


@EACH_TEXT_MODEL
@pytest.mark.parametrize("lengths", [(3, 0, 5, 2), (0, 0, 4, 0), (0, 0, 0, 0)])
def test_rows_of_padding_only_are_finite(name: str, lengths: tuple[int, ...]) -> None:
    stages = build_stages(text_config(name))
    activation, labels = text_batch(0, lengths)
    for stage in stages:
        activation = stage.forward(0, activation, labels)
        assert activation.hidden.isfinite().all()
        stage.update(0)
        grads = [p.grad for p in stage.module.parameters() if p.grad is not None]
        assert grads
        assert all(g.isfinite().all() for g in grads)
        assert all_finite(stage.module)
    with torch.no_grad():
        for r, logits in answers([s.module.eval() for s in stages], text_batch(0, lengths)[0]):
            assert r.isfinite().all()
            assert logits.isfinite().all()


# --- LSTM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["identity", "linear", "mlp", "mlp_bn", "simsiam"])
@pytest.mark.parametrize("exit_kind", ["linear", "mlp", "mlp_bn"])
def test_lstm_with_another_embedding_width(projection: str, exit_kind: str) -> None:
    settings = config(
        model__kind="lstm",
        model__embedding_width=12,
        local={"projection_head": {"kind": projection}, "exit_head": {"kind": exit_kind}},
    )
    stages = build_stages(settings)
    before = [s.module.weights_sha256() for s in stages]
    train(stages, [text_batch()])
    assert all(all_finite(s.module) for s in stages)
    assert all(s.module.weights_sha256() != b for s, b in zip(stages, before, strict=True))


def test_lstm_states_start_the_next_layer() -> None:
    stages = modules(config(model__kind="lstm"))
    batch, _ = text_batch(0, (5, 5, 5))
    with torch.no_grad():
        embedded = stages[0].run_layers(batch, None, 0)
        assert embedded.states == ()
        first = stages[1].run_layers(embedded, None, 0)
        assert [tuple(s.shape) for s in first.states] == [(2, 3, 8), (2, 3, 8)]
        assert torch.equal(stages[1].reduce(first), (first.states[0][0] + first.states[0][1]) / 2)
        second = stages[2].run_layers(first, None, 0)
        layer = stages[2].stack[0]
        assert isinstance(layer, BiLSTM)
        h, c = first.states
        by_hand, (last_h, _) = layer.lstm(first.hidden, (h, c))
        without, _ = layer.lstm(first.hidden)
    assert torch.allclose(second.hidden, by_hand, atol=1e-6)
    assert torch.allclose(second.states[0], last_h, atol=1e-6)
    assert not torch.allclose(second.hidden, without, atol=1e-3)


def test_lstm_states_follow_their_rows() -> None:
    """Packing sorts by length inside; the states must not be swapped."""
    layer = BiLSTM(4, 3, 0.0).eval()
    hidden, states = torch.randn(3, 5, 4), (torch.randn(2, 3, 3), torch.randn(2, 3, 3))
    mask = torch.arange(5) < torch.tensor([[2], [5], [3]])
    with torch.no_grad():
        together = layer(Activation(hidden, mask, states))
        for row, length in enumerate((2, 5, 3)):
            own = tuple(s[:, row : row + 1] for s in states)
            alone = layer(Activation(hidden[row : row + 1, :length], None, own))
            assert torch.allclose(together.states[0][:, row], alone.states[0][:, 0], atol=1e-6)
            assert torch.allclose(together.hidden[row, :length], alone.hidden[0], atol=1e-6)


@pytest.mark.parametrize("mask", [True, False])
def test_lstm_in_bfloat16_autocast_equals_float32_on_cpu(mask: bool) -> None:
    """Many CPUs have no bfloat16 LSTM: it stays in float32 there."""
    layer = BiLSTM(4, 3, 0.0).eval()
    hidden = torch.randn(2, 5, 4).bfloat16()
    rows = torch.ones(2, 5, dtype=torch.bool) if mask else None
    plain = layer(Activation(hidden.float(), rows))
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(Activation(hidden, rows))
        chained = BiLSTM(6, 3, 0.0)(inside)
    assert torch.equal(inside.hidden, plain.hidden)
    assert inside.hidden.dtype == torch.float32
    assert chained.hidden.isfinite().all()


# --- positions, word vectors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positional", "blind"), [("none", True), ("sinusoidal", False), ("learned", False)]
)
def test_word_order(positional: str, blind: bool) -> None:
    stages = modules(config(model__positional=positional))
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        straight = answers(stages, Activation(tokens))[-1][0]
        turned = answers(stages, Activation(tokens.flip(1)))[-1][0]
    assert torch.allclose(straight, turned, atol=1e-5) == blind


def test_sinusoids_by_hand() -> None:
    plain = TokenEmbedding(9, 5, 5, 0.0, "none", 8)
    waves = TokenEmbedding(9, 5, 5, 0.0, "sinusoidal", 8)
    waves.load_state_dict(plain.state_dict())
    ids = Activation(torch.tensor([[2, 3, 4]]))
    added = (waves(ids).hidden - plain(ids).hidden)[0]
    for t in range(3):
        for i in range(5):
            angle = t / 10_000 ** ((i - i % 2) / 5)
            wanted = math.cos(angle) if i % 2 else math.sin(angle)
            assert added[t, i].item() == pytest.approx(wanted, abs=1e-6)


def test_learned_positions_have_an_end() -> None:
    layer = TokenEmbedding(9, 4, 4, 0.0, "learned", 3)
    assert layer(Activation(torch.ones(1, 3, dtype=torch.int64))).hidden.shape == (1, 3, 4)
    with pytest.raises(ValueError, match=r"a text of 4 tokens.*data.max_len \(3\)"):
        layer(Activation(torch.ones(1, 4, dtype=torch.int64)))


def test_learned_positions_learn() -> None:
    stage = build_stages(config())[0]
    train([stage], [text_batch()])
    grad = dict(stage.module.named_parameters())["stack.0.positions.weight"].grad
    assert grad is not None
    assert grad[:7].abs().sum() > 0
    assert grad[7:].abs().sum() == 0


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_word_vectors_go_to_their_ids(kind: str) -> None:
    matrix = np.arange(50 * 8, dtype=np.float32).reshape(50, 8) + 1
    found = np.zeros(50, dtype=bool)
    found[[0, 2, 7, 49]] = True
    layer = build_model(config(model__kind=kind), TEXT, (matrix, found)).layers[0].make(0)
    plain = build_model(config(model__kind=kind), TEXT).layers[0].make(0)
    assert isinstance(layer, TokenEmbedding)
    assert isinstance(plain, TokenEmbedding)
    for row in (2, 7, 49):
        assert layer.tokens.weight[row].tolist() == matrix[row].tolist()
    assert layer.tokens.weight[0].abs().sum() == 0
    others = [i for i in range(1, 50) if i not in (2, 7, 49)]
    assert torch.equal(layer.tokens.weight[others], plain.tokens.weight[others])
    ids = torch.tensor([[7, 2]])
    assert torch.equal(layer.tokens(ids)[0, 0].detach(), torch.from_numpy(matrix[7]))


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 9, 7)])
@pytest.mark.parametrize("pool", [None, 1, 2])
def test_convnet_features_equal_the_real_width(shape: tuple[int, ...], pool: int | None) -> None:
    info = image_info(*shape)
    settings = config(model__kind="convnet", model__channels=[4, 6, 5], local__pool=pool)
    model = build_model(settings, info)
    assert model.names == ("conv.1", "conv.2", "conv.3")
    assert model.style == "image"
    activation, _ = image_batch(info)
    for spec in model.layers:
        activation = apply_layer(spec.make(0).eval(), activation)
        assert spec.reduce(activation).shape == (6, spec.features)
    if pool:
        assert [spec.features for spec in model.layers] == [c * pool * pool for c in (4, 6, 5)]
    stages = build_stages(settings, info)
    train(stages, [image_batch(info)])
    assert all(all_finite(s.module) for s in stages)


@EACH_TEXT_MODEL
def test_text_features_equal_the_real_width(name: str) -> None:
    activation, _ = text_batch()
    model = build_model(text_config(name), TEXT)
    for spec in model.layers:
        activation = apply_layer(spec.make(0).eval(), activation)
        assert spec.reduce(activation).shape == (4, spec.features)
    assert len(model.layers) == 3


# --- initial weights -----------------------------------------------------------------------------


def layers_of(settings: Config) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for module in modules(settings):
        state |= {k: v for k, v in module.named_state().items() if k.startswith("layers.")}
    return state


@EACH_TEXT_MODEL
def test_initial_weights_depend_on_seed_and_name_alone(name: str) -> None:
    one = layers_of(text_config(name, stages=[1, 1, 1], seed=5))
    torch.rand(100)
    for other in (
        layers_of(text_config(name, stages=[3], seed=5)),
        layers_of(text_config(name, stages=[2, 1], seed=5, method="scpl")),
        layers_of(text_config(name, seed=5, model__layers=3)),
    ):
        assert all(torch.equal(other[k], v) for k, v in one.items())
    another = layers_of(text_config(name, stages=[1, 1, 1], seed=6))
    assert any(not torch.equal(another[k], v) for k, v in one.items())
    key = (
        "encoder.{}.encoder.linear1.weight"
        if "encoder" in str(one)
        else "lstm.{}.lstm.weight_hh_l0"
    )
    first, second = (one["layers." + key.format(i)] for i in (1, 2))
    assert not torch.equal(first, second)


def test_heads_depend_on_their_place_alone() -> None:
    def heads(**changes: Any) -> dict[str, Tensor]:
        last = modules(config(**changes))[-1].named_state()
        return {k: v for k, v in last.items() if k.startswith("heads.encoder.2.")}

    one = heads(stages=[1, 1, 1])
    assert len(one) == 8
    for other in (heads(stages=[3]), heads(stages=[1, 2], method="scpl")):
        assert other.keys() == one.keys()
        assert all(torch.equal(other[k], v) for k, v in one.items())


# --- which model ---------------------------------------------------------------------------------


def test_unknown_kind() -> None:
    with pytest.raises(ConfigError, match=r"unknown model.kind 'lstn'.*Did you mean 'lstm'"):
        build_model(config(model__kind="lstn"), TEXT)


@pytest.mark.parametrize(
    ("kind", "info", "said"),
    [
        ("convnet", TEXT, "takes image.*gives text; allowed with it: transformer, lstm"),
        ("lstm", image_info(1, 8, 8), "takes text.*gives image; allowed with it: convnet"),
    ],
)
def test_kind_that_does_not_fit_the_data(kind: str, info: DataInfo, said: str) -> None:
    with pytest.raises(ConfigError, match=f"model.kind: '{kind}' {said}"):
        build_model(config(model__kind=kind), info)


def test_layer_names_are_unique_and_present() -> None:
    spec = LayerSpec("a", nn.Identity, mean_over_tokens, 1)
    with pytest.raises(ValueError, match="not unique: a, a"):
        LayeredModel((spec, spec))
    with pytest.raises(ValueError, match="at least one layer"):
        LayeredModel(())


# --- models of one's own -------------------------------------------------------------------------

FACTORY = """
from torch import nn
from scpl_ray.models import LayeredModel, LayerSpec, flatten, mean_over_tokens

def build(data, width=6):
    layers = [("embed", nn.Embedding(data.vocab_size, width)), ("mix", nn.Linear(width, width + 1))]
    return layers, mean_over_tokens

def lazily(data):
    return [("embed", lambda: nn.Embedding(50, 4)), ("mix", lambda: nn.Linear(4, 5))], mean_over_tokens

def finished(data):
    return LayeredModel((LayerSpec("e", lambda: nn.Embedding(50, 3), mean_over_tokens),), style="image")

def bare(data):
    return [("flat", nn.Flatten()), ("mix", nn.Linear(64, 5))]

def nothing(data):
    return None

def empty(data):
    return [], mean_over_tokens

def unnamed(data):
    return [nn.Linear(2, 2)], mean_over_tokens

def twice(data):
    return [("a", nn.Embedding(50, 4)), ("a", nn.Linear(4, 4))], mean_over_tokens

def misfit(data):
    return [("embed", nn.Embedding(50, 4)), ("mix", nn.Linear(5, 4))], mean_over_tokens

def unbuildable(data):
    def make():
        raise OSError("no disk")
    return [("embed", make)], mean_over_tokens

def unreduced(data):
    return [("embed", nn.Embedding(50, 4))], lambda a: a.hidden

def raising(data):
    raise RuntimeError("no luck")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of one's own in the current folder; returns its name."""
    name = f"own_model_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(FACTORY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("function", ["build", "lazily"])
def test_factory_of_pairs(own: str, function: str) -> None:
    settings = config(model__factory=f"{own}:{function}", stages=[1, 1], optimizer__lr=0.01)
    model = build_model(settings, TEXT)
    widths = {"build": [6, 7], "lazily": [4, 5]}[function]
    assert model.names == ("embed", "mix")
    assert [layer.features for layer in model.layers] == widths
    first, again = build_stages(settings), build_stages(settings)
    assert [s.module.weights_sha256() for s in first] == [s.module.weights_sha256() for s in again]
    stats = train(first, [text_batch()] * 20)
    assert stats[-1][1].loss < stats[0][1].loss
    assert first[0].module.training


def test_factory_options(own: str) -> None:
    settings = config(model__factory=f"{own}:build", model__options={"width": 3})
    assert [layer.features for layer in build_model(settings, TEXT).layers] == [3, 4]


def test_factory_of_a_finished_model(own: str) -> None:
    model = build_model(config(model__factory=f"{own}:finished"), TEXT)
    assert [layer.features for layer in model.layers] == [3]
    assert model.style == "image"


def test_factory_without_a_reduce_flattens(own: str) -> None:
    model = build_model(config(model__factory=f"{own}:bare"), image_info(1, 8, 8))
    assert [layer.features for layer in model.layers] == [64, 5]
    assert model.style == "image"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("biuld", "unknown function 'biuld'.*Did you mean 'build'"),
        ("number", "unknown function 'number'"),
        ("nothing", "returned NoneType; it must return"),
        ("empty", "it must return"),
        ("unnamed", "it must return"),
        ("twice", "not unique: a, a"),
        ("misfit", "layer 'mix' fails on a sample input .*RuntimeError"),
        ("unbuildable", "layer 'embed' fails.*OSError: no disk"),
        ("unreduced", r"reduce gives shape \[2, 2, 4\] after layer 'embed'"),
        ("raising", "RuntimeError: no luck"),
    ],
)
def test_bad_factories(own: str, function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"model.factory: .*{said}"):
        build_model(config(model__factory=f"{own}:{function}"), TEXT)


def test_factory_with_unknown_options(own: str) -> None:
    settings = config(model__factory=f"{own}:build", model__options={"depth": 3})
    with pytest.raises(ConfigError, match="model.factory: .*options {'depth': 3}.*'depth'"):
        build_model(settings, TEXT)


@pytest.mark.parametrize("name", ["nocolon", ":build", "module:", "a.b"])
def test_bad_factory_names(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model.factory: '{name}': write module:function"):
        build_model(config(model__factory=name), TEXT)


def test_missing_factory_module() -> None:
    with pytest.raises(ConfigError, match="model.factory: .*cannot import 'no_such_module_here'"):
        build_model(config(model__factory="no_such_module_here:build"), TEXT)


@pytest.mark.parametrize("text", ["def build(:\n", "1 / 0\n", "import no_such_module_here\n"])
def test_factory_module_that_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=f"model.factory: '{name}:build': cannot import"):
        build_model(config(model__factory=f"{name}:build"), TEXT)
