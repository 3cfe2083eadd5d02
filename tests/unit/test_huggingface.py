from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scpl_ray
from scpl_ray import huggingface as hf
from scpl_ray.config import Config, load_config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.data import load_data
from scpl_ray.errors import ConfigError
from scpl_ray.job_checks import check_before
from scpl_ray.models import Activation, build_model
from scpl_ray.models.growth import extend
from scpl_ray.models.huggingface_source import Source
from scpl_ray.models.layers import apply_layer
from scpl_ray.stage_module import StageModule
from tests.helpers import write_texts
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

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (pip install 'scpl-ray[huggingface]')"
)

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
ASKED = {"embedding_size": 8, "image_size": 16, "patch_size": 8, "num_channels": 1}
IMAGE = image_info(1, 16, 16)
EACH = pytest.mark.parametrize("kind", hf.ENCODERS)
FOUR = pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "vit"])
# A network and its tokenizer: three marks, then words.
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "good",
    "fine",
    "great",
    "bad",
    "poor",
    "awful",
    "film",
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "_unreachable", lambda: "a test does not ask")


def options(kind: str, **more: Any) -> dict[str, Any]:
    """Of a tiny network; what a type does not know is left out."""
    plain = transformers.AutoConfig.for_model(kind)
    return {k: v for k, v in (SMALL | ASKED).items() if hasattr(plain, k)} | more


def settings(kind: str, changes: dict[str, Any] | None = None, **more: Any) -> Config:
    own = {"model_type": kind, **options(kind), **(changes or {})}
    return config(model={"kind": "huggingface", "options": own}, **more)


def is_image(kind: str) -> bool:
    return hasattr(transformers.AutoConfig.for_model(kind), "image_size")


def info_of(kind: str) -> DataInfo:
    return IMAGE if is_image(kind) else TEXT


def batch_of(kind: str) -> tuple[Activation, Tensor]:
    return image_batch(IMAGE) if is_image(kind) else text_batch()


def saved(folder: Path, kind: str, **more: Any) -> nn.Module:
    """A network with weights in a folder, as `save_pretrained` leaves it."""
    if not is_image(kind):
        more = {"vocab_size": 50, "pad_token_id": 0} | more
    made = transformers.AutoConfig.for_model(kind, **options(kind, **more))
    torch.manual_seed(1)
    network: nn.Module = transformers.AutoModel.from_config(made)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(folder)
    return network.eval()


def tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    """Puts a tokenizer beside a network."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {f"{m}_token": f"[{m.upper()}]" for m in ("pad", "unk", "cls", "sep")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=own, **marks).save_pretrained(folder)


def of_folder(folder: Path, **changes: Any) -> Config:
    return config(model__kind="huggingface", model__path=str(folder), **changes)


def run_through(layers: list[nn.Module], activation: Activation) -> list[Activation]:
    found = []
    with torch.no_grad():
        for layer in layers:
            activation = apply_layer(layer, activation)
            found.append(activation)
    return found


# --- equal to the package's own network ------------------------------------------------------------


@EACH
def test_hidden_states_equal_the_whole_network(kind: str, tmp_path: Path) -> None:
    network = saved(tmp_path, kind)
    activation, _ = batch_of(kind)
    model = build_model(of_folder(tmp_path), info_of(kind))
    with torch.no_grad():
        if is_image(kind):
            wanted = network(activation.hidden, output_hidden_states=True)
        else:
            wanted = network(
                activation.hidden, attention_mask=activation.mask, output_hidden_states=True
            )
    found = run_through([s.make(0).eval() for s in model.layers], activation)
    assert model.names[:4] == ("embeddings", "encoder.1", "encoder.2", "encoder.3")
    assert model.names[4:] in ((), ("norm",))
    # Where there is a final norm, some types report its output as the last hidden state.
    for k, own in enumerate(found[:3]):
        assert torch.allclose(own.hidden, wanted.hidden_states[k], atol=1e-5), k
    assert torch.allclose(found[-1].hidden, wanted.last_hidden_state, atol=1e-5)
    assert [s.features for s in model.layers] == [8] * len(model.names)
    assert model.style == ("image" if is_image(kind) else "text")


def test_final_norms() -> None:
    """Pre-norm networks end in one."""
    with_norm = [k for k in hf.ENCODERS if build_model(settings(k), info_of(k)).names[-1] == "norm"]
    assert set(with_norm) >= {"vit", "deit", "dinov2", "roberta-prelayernorm"}
    assert not set(with_norm) & {"bert", "roberta", "distilbert", "electra"}


def test_positions_of_roberta_do_not_count_padding(tmp_path: Path) -> None:
    """Our batches hold 0 at padding, its own padding is 1, and 0 a real token."""
    network = saved(tmp_path, "roberta", pad_token_id=1)
    tokens = torch.tensor([[0, 7, 8, 2], [0, 9, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    with torch.no_grad():
        wanted = network(tokens.masked_fill(~mask, 1), attention_mask=mask).last_hidden_state
    model = build_model(of_folder(tmp_path), TEXT)
    found = run_through([s.make(0).eval() for s in model.layers], Activation(tokens, mask))
    assert torch.allclose(found[-1].hidden[mask], wanted[mask], atol=1e-5)


# --- cutting ---------------------------------------------------------------------------------------


def layer_weights(own: Config, kind: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for module in modules(own, info_of(kind)):
        found |= {k: v for k, v in module.named_state().items() if k.startswith("layers.")}
    return found


@FOUR
def test_initial_weights_depend_on_seed_and_name_alone(kind: str) -> None:
    one = layer_weights(settings(kind, stages=1, seed=5), kind)
    torch.rand(3)
    for stages in (2, None):
        other = layer_weights(settings(kind, stages=stages, seed=5), kind)
        assert other.keys() == one.keys()
        assert all(torch.equal(other[k], v) for k, v in one.items())
    longer = layer_weights(settings(kind, {"num_hidden_layers": 5}, seed=5), kind)
    assert all(torch.equal(longer[k], v) for k, v in one.items())
    another = layer_weights(settings(kind, stages=1, seed=6), kind)
    assert any(not torch.equal(another[k], v) for k, v in one.items())
    drawn = [k for k, v in one.items() if ".encoder.1." in k and v.dim() == 2]
    assert drawn
    for name in drawn:
        second = one[name.replace(".encoder.1.", ".encoder.2.")]
        assert not torch.equal(one[name], second)


@EACH
def test_every_weight_and_buffer_gets_an_initial_value(kind: str) -> None:
    """By the package's rules: as in a network that it made itself."""
    own = hf.read_config(
        settings(kind).model, {} if is_image(kind) else {"vocab_size": 50, "pad_token_id": 0}
    )
    whole = transformers.AutoModel.from_config(own)
    source = Source(own, None)
    names = ["embeddings", f"{source.list}.1", *([source.norm] if source.norm else [])]
    for name in names:
        made, there = source.take(name), whole.get_submodule(name)
        for key, buffer in there.named_buffers():
            assert torch.equal(made.get_buffer(key), buffer), (name, key)
        for key, wanted in there.named_parameters():
            found = made.get_parameter(key)
            assert found.isfinite().all()
            if wanted.unique().numel() <= 2:
                assert torch.equal(found, wanted), (name, key)
            elif wanted.numel() >= 64:
                assert 0.5 < found.std() / wanted.std() < 2, (name, key)


@FOUR
def test_cutting_changes_nothing(kind: str) -> None:
    """Dropout too: it is drawn from (seed, layer, step)."""
    activation, _ = batch_of(kind)
    found = []
    for stages in (1, 2, [1, 1, 2] if kind != "vit" else [1, 1, 3], None):
        given, outputs = activation, []
        for stage in build_stages(settings(kind, stages=stages, seed=3), info_of(kind)):
            stage.module.train()
            given = stage.module.run_layers(given, 3, 7).detach()
            outputs.append(given.hidden)
        found.append(outputs[-1])
    assert all(torch.equal(f, found[0]) for f in found)


@EACH
def test_every_stage_learns(kind: str) -> None:
    info = info_of(kind)
    stages = build_stages(settings(kind, stages=2, optimizer__lr=0.01), info)
    before = [s.module.weights_sha256() for s in stages]
    stats = train(stages, [batch_of(kind)] * 12)
    assert all(all_finite(s.module) for s in stages)
    assert all(a != s.module.weights_sha256() for a, s in zip(before, stages, strict=True))
    assert all(last.loss < first.loss for first, last in zip(stats[0], stats[-1], strict=True))


@FOUR
def test_a_stage_comes_back_as_it_was(kind: str) -> None:
    """Its state goes through bytes and on from there, to the bit."""
    from scpl_ray.engine.build import load_stage_state, stage_state

    info = info_of(kind)
    first = build_stages(settings(kind, stages=2), info)
    train(first, [batch_of(kind)] * 2)
    again = build_stages(settings(kind, stages=2), info)
    for old, new in zip(first, again, strict=True):
        load_stage_state(new, stage_state(old))
    for stages in (first, again):
        given, labels = batch_of(kind)
        for stage in stages:
            given = stage.forward(2, given, labels)
            stage.update(2)
    for old, new in zip(first, again, strict=True):
        assert old.module.weights_sha256() == new.module.weights_sha256()


# --- padding ---------------------------------------------------------------------------------------


def reduced(stages: list[StageModule], activation: Activation) -> list[Tensor]:
    found = []
    with torch.no_grad():
        for stage in stages:
            activation = stage.run_layers(activation, None, 0)
            found.append(stage.reduce(activation))
    return found


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "roberta-prelayernorm"])
def test_padding_changes_no_answer(kind: str) -> None:
    stages = modules(settings(kind))
    batch, _ = text_batch(0, (3, 9, 1, 6))
    assert batch.mask is not None
    together = reduced(stages, batch)
    soiled = torch.where(batch.mask, batch.hidden, torch.full_like(batch.hidden, 7))
    for k, other in enumerate(reduced(stages, Activation(soiled, batch.mask))):
        assert torch.allclose(together[k], other, atol=1e-6)
    for row, length in enumerate((3, 9, 1, 6)):
        tokens = batch.hidden[row : row + 1, :length]
        for mask in (batch.mask[row : row + 1, :length], None):
            for k, alone in enumerate(reduced(stages, Activation(tokens, mask))):
                assert torch.allclose(together[k][row], alone[0], atol=1e-5), (row, k)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_rows_of_padding_only_are_finite(kind: str) -> None:
    stages = build_stages(settings(kind))
    train(stages, [text_batch(0, (3, 0, 5, 2)), text_batch(0, (0, 0, 0, 0))])
    assert all(all_finite(s.module) for s in stages)


def test_mean_over_padding_only_if_asked() -> None:
    own = settings("bert").model.model_dump() | {"mean_over": "padded"}
    stages = modules(config(model=own))
    batch, _ = text_batch(0, (3, 9))
    assert batch.mask is not None
    alone = Activation(batch.hidden[:1, :3], batch.mask[:1, :3])
    assert not torch.allclose(reduced(stages, batch)[0][0], reduced(stages, alone)[0][0], atol=1e-3)


# --- growth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_growth(kind: str) -> None:
    own, info = settings(kind, seed=5), info_of(kind)
    grown = extend(extend(own), 1)
    before = build_model(own, info).names
    model = build_model(grown, info)
    assert model.names == (*before, "encoder.4", "encoder.5")
    old, new = layer_weights(own, kind), layer_weights(grown, kind)
    assert all(torch.equal(new[k], v) for k, v in old.items())
    whole = layer_weights(settings(kind, {"num_hidden_layers": 5}, seed=5), kind)
    assert all(torch.equal(whole[k], v) for k, v in new.items() if k in whole)
    # What comes behind a final norm ends in a norm of its own.
    assert ("layers.encoder.5.norm.weight" in new) == (kind == "vit")
    train(build_stages(grown, info), [batch_of(kind)])
    with pytest.raises(ConfigError, match="unknown key 'dropout'; allowed: factory, options"):
        extend(own, 1, {"dropout": 0.1})


def test_a_pretrained_network_grows_by_new_layers(tmp_path: Path) -> None:
    network = saved(tmp_path, "bert")
    layers = build_model(extend(of_folder(tmp_path)), TEXT).layers
    last = network.get_submodule("encoder.layer.2").state_dict()
    made = {k.removeprefix("module."): v for k, v in layers[-1].make(0).state_dict().items()}
    there = {k.removeprefix("module."): v for k, v in layers[3].make(0).state_dict().items()}
    key = "attention.self.query.weight"
    assert torch.equal(there[key], last[key])
    assert made[key].shape == last[key].shape
    assert not torch.equal(made[key], last[key])


# --- pretrained or not -----------------------------------------------------------------------------


def test_pretrained_weights_are_taken_or_left(tmp_path: Path) -> None:
    network = saved(tmp_path, "distilbert")
    wanted = network.get_submodule("transformer.layer.1").state_dict()
    for pretrained in (True, False):
        own = of_folder(tmp_path, model__pretrained=pretrained)
        found = build_model(own, TEXT).layers[2].make(0).state_dict()
        same = [torch.equal(found[f"module.{k}"], v) for k, v in wanted.items()]
        assert all(same) if pretrained else not any(s for s, k in zip(same, wanted, strict=True))


def test_two_builds_share_nothing(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    spec = build_model(of_folder(tmp_path), TEXT).layers[1]
    first, second = spec.make(0), spec.make(0)
    assert first.training
    with torch.no_grad():
        next(first.parameters()).fill_(9)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    saved(tmp_path, "bert").half().save_pretrained(tmp_path)
    for spec in build_model(of_folder(tmp_path), TEXT).layers:
        assert {p.dtype for p in spec.make(0).parameters()} == {torch.float32}


def test_fewer_layers_than_saved_and_more(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    fewer = of_folder(tmp_path, model__options={"num_hidden_layers": 2})
    assert build_model(fewer, TEXT).names == ("embeddings", "encoder.1", "encoder.2")
    build_model(fewer, TEXT).layers[2].make(0)
    more = of_folder(tmp_path, model__options={"num_hidden_layers": 4})
    with pytest.raises(ConfigError, match=r"has no weights for encoder.layer.3.*pretrained"):
        build_model(more, TEXT).layers[0].make(0)
    new = more.model_copy(update={"model": more.model.model_copy(update={"pretrained": False})})
    build_model(new, TEXT).layers[4].make(0)


def test_a_plan_costs_no_memory() -> None:
    own = hf.read_config(
        config(model={"kind": "huggingface", "options": {"model_type": "bert"}}).model
    )
    assert all(p.is_meta for p in Source(own, None).plan.parameters())


# --- tokenizer -------------------------------------------------------------------------------------


def test_own_tokenizer(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    tokenizer(tmp_path)
    found = hf.own_tokenizer(of_folder(tmp_path, data__max_len=5))
    assert found is not None
    from scpl_ray.data.text import encode

    ids = encode(found, ["good film", "a Bad film good good good"])
    assert [list(i) for i in ids] == [[2, 4, 10, 3], [2, 1, 1, 10, 3]]


def test_no_tokenizer_of_its_own(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    with pytest.raises(ConfigError, match=r"has no tokenizer of its own \(tokenizer.json\)"):
        hf.own_tokenizer(of_folder(tmp_path))
    tokenizer(tmp_path)
    with pytest.raises(
        ConfigError, match="data.max_len: 2 leaves no room for words.* adds 2 marks"
    ):
        hf.own_tokenizer(of_folder(tmp_path, data__max_len=2))
    saved(tmp_path / "vit", "vit")
    assert hf.own_tokenizer(of_folder(tmp_path / "vit")) is None
    assert hf.own_tokenizer(settings("bert")) is None
    assert hf.own_tokenizer(config()) is None


def test_without_a_path_the_vocabulary_is_of_the_data() -> None:
    layer = build_model(settings("roberta"), TEXT).layers[0].make(0)
    table = layer.get_submodule("module.word_embeddings")
    assert isinstance(table, nn.Embedding)
    assert (table.num_embeddings, table.padding_idx) == (TEXT.vocab_size, 0)
    larger = build_model(settings("bert", {"vocab_size": 70}), TEXT).layers[0].make(0)
    assert larger.get_submodule("module.word_embeddings").num_embeddings == 70  # type: ignore[union-attr]


def tree(folder: Path, texts: Path, **model: Any) -> dict[str, Any]:
    return {
        "name": "hf",
        "stages": 2,
        "data": {"source": "file", "path": str(texts), "max_len": 12},
        "model": {"kind": "huggingface", **model},
        "train": {"epochs": 1, "batch_size": 32},
        "pipeline": {"engine": "local"},
        "resources": {"threads": 1},
        "output": {"tensorboard": False},
    }


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_run_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: bool
) -> None:
    """Trains, goes through its checkpoint, and answers texts with the network's own tokenizer."""
    monkeypatch.chdir(tmp_path)
    texts = write_texts(tmp_path / "texts.jsonl")
    words = {w for line in texts.read_text().splitlines() for w in json.loads(line)["text"].split()}
    saved(tmp_path / "bert", "bert", vocab_size=200)
    tokenizer(tmp_path / "bert", [*WORDS[:4], *sorted(words)[:150]])
    own = tree(tmp_path, texts, path=str(tmp_path / "bert"), pretrained=pretrained)
    loader, ready = load_data(load_config(own))
    first = loader.train_batch(0).inputs["tokens"]
    assert (first[:, 0] == 2).all() and ready.info.vocab_size == 4 + min(len(words), 150)
    assert first.shape[1] <= 12
    run = scpl_ray.train(own)
    network = scpl_ray.load(run.dir)
    encoded = network.encode(["good film", "bad"])
    assert encoded["tokens"][0, 0] == 2
    logits = network(encoded)
    assert len(logits) == 2 and all(x.shape == (2, 2) for x in logits)
    assert network.pad_id == 0
    _, scores = scpl_ray.evaluate_run(run.dir)
    for exit_score, told in zip(scores, run.summary["exits"], strict=True):
        assert exit_score.accuracy == pytest.approx(told["test_accuracy"])


def test_padding_in_bare_token_ids_is_the_networks_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = write_texts(tmp_path / "texts.jsonl")
    saved(tmp_path / "roberta", "roberta", pad_token_id=1)
    tokenizer(tmp_path / "roberta", ["<s>", "<pad>", "[CLS]", "[SEP]", "[UNK]", "good", "bad"])
    run = scpl_ray.train(tree(tmp_path, texts, path=str(tmp_path / "roberta")))
    network = scpl_ray.load(run.dir)
    assert network.pad_id == 1
    short, padded = torch.tensor([[0, 5, 6]]), torch.tensor([[0, 5, 6, 1, 1]])
    with torch.no_grad():
        for a, b in zip(network(short), network(padded), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_same_again_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = write_texts(tmp_path / "texts.jsonl")
    own = tree(tmp_path, texts, options={"model_type": "distilbert", **options("distilbert")})
    one, two = (scpl_ray.train(own, name=name).summary for name in ("one", "two"))
    assert one["weights_sha256"] == two["weights_sha256"]


# --- what cannot be --------------------------------------------------------------------------------


def fails(own: Config, info: DataInfo, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(own, info)
    for word in words:
        assert word in str(caught.value)


def test_errors(tmp_path: Path) -> None:
    bare = config(model__kind="huggingface")
    fails(bare, TEXT, "model.path: say which network", "model.options.model_type", "distilbert")
    fails(settings("bert", {"model_type": "brt"}), TEXT, "unknown model_type 'brt'", "'bert'?")
    fails(settings("bert", {"hidden_sise": 8}), TEXT, "unknown key 'hidden_sise'", "'hidden_size'?")
    fails(settings("bert", {"hidden_size": "x"}), TEXT, "model.options", "not accepted by bert")
    fails(of_folder(tmp_path / "none"), TEXT, "is no folder here", "a test does not ask")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    fails(of_folder(tmp_path), TEXT, "unknown model_type 'gpt2'", "model.factory")
    fails(settings("vit"), TEXT, "'huggingface' takes image", "allowed with it: transformer, lstm")
    fails(settings("bert"), IMAGE, "'huggingface' takes text", "allowed with it: convnet")


def test_what_does_not_fit_the_data(tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    fails(of_folder(tmp_path), image_info(3, 32, 32), "(1, 16, 16)", "(3, 32, 32)", "resize")
    fails(settings("vit", {"image_size": 32}), IMAGE, "(1, 32, 32)", "(1, 16, 16)")
    without = {k: v for k, v in options("vit").items() if k not in ("image_size", "num_channels")}
    fitted = config(model={"kind": "huggingface", "options": {"model_type": "vit"} | without})
    build_model(fitted, image_info(3, 24, 24))
    fails(fitted, image_info(3, 7, 9), "patch_size: 8 is more than", "7 x 9")
    fails(settings("bert", {"vocab_size": 40}), TEXT, "50 token ids", "40 (vocab_size)")
    long = dataclasses.replace(TEXT, max_len=17)
    fails(
        settings("bert", {"max_position_embeddings": 16}), long, "data.max_len: 17", "16 positions"
    )
    # Its positions begin behind the id of padding.
    roberta = settings("roberta", {"max_position_embeddings": 17, "pad_token_id": 1})
    fails(roberta, dataclasses.replace(TEXT, max_len=16), "15 positions")
    build_model(roberta, dataclasses.replace(TEXT, max_len=15))


def test_parts_outside_the_layers_are_not_left_out() -> None:
    own = settings("electra", {"embedding_size": 4})
    fails(own, TEXT, "parts that its layers do not show", "embeddings_project")


def test_a_longer_text_than_positions() -> None:
    layer = build_model(settings("bert", {"max_position_embeddings": 16}), TEXT).layers[0].make(0)
    layer(Activation(torch.ones(1, 16, dtype=torch.int64)))
    with pytest.raises(ValueError, match="a text of 17 tokens, but the network has 16 positions"):
        layer(Activation(torch.ones(1, 17, dtype=torch.int64)))


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    hf._config.cache_clear()
    fails(settings_without_package(), TEXT, "pip install 'scpl-ray[huggingface]'")


def test_the_package_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("transformers")
    old.__version__ = "4.57.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", old)
    hf._config.cache_clear()
    fails(settings_without_package(), TEXT, "transformers 5.20 or newer, and 4.57.1 is installed")


def settings_without_package() -> Config:
    return config(model={"kind": "huggingface", "options": {"model_type": "bert"}})


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_checked_before_there_is_data(kind: str, tmp_path: Path) -> None:
    check_before(settings(kind, data__source="digits"))
    many = len(build_model(settings(kind), info_of(kind)).names) + 1
    with pytest.raises(ConfigError, match=f"stages: {many} is more than"):
        check_before(settings(kind, stages=many, data__source="digits"))
    saved(tmp_path, kind)
    check_before(of_folder(tmp_path, data__source="digits"))
