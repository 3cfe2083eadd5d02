from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import scpl_ray
from scpl_ray.config import load_config
from scpl_ray.engine.base import Ask, StageState
from scpl_ray.engine.local import LocalEngine
from scpl_ray.errors import CheckpointError
from scpl_ray.initial import Initial, read_initial
from scpl_ray.models import build_model
from scpl_ray.partition import partition
from scpl_ray.report import Reporter
from scpl_ray.run_folder import CHECKPOINT
from scpl_ray.stage import plan_stages
from scpl_ray.trained import TrainedRun
from tests.helpers import small_config, write_texts


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def first(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run of four stages: embedding, encoder.1, encoder.2, encoder.3."""
    out = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(out / "state"))
        tree = small_config(texts, out, pipeline__engine="local", name="first")
        return scpl_ray.train(tree, reporter=Reporter())


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other texts of the same two classes."""
    return write_texts(tmp_path_factory.mktemp("others") / "texts.jsonl", samples=60, seed=7)


class Second:
    """A run's stages right after its start from the first run."""

    def __init__(
        self, first: TrainedRun, data: Path, out: Path, start: int = 99, **changes: Any
    ) -> None:
        tree = small_config(data, out, **changes)
        tree["model"]["init_from"] = str(first.dir)
        self.config = load_config(tree)
        initial = read_initial(self.config)
        assert initial is not None
        self.initial = initial
        self.engine = LocalEngine(self.config)
        self.info = self.engine.prepare_data(initial.tokenizer).info
        cut = partition(build_model(self.config, self.info).names, self.config.stages)
        self.specs = plan_stages(self.config, cut)
        self.report = initial.report(self.config, self.info, self.specs[:start])
        self.engine.start(self.specs[:start], None, None, initial.weights())

    def states(self) -> list[StageState]:
        states = list(self.engine.states())
        self.engine.close()
        return states

    def weights(self) -> dict[str, torch.Tensor]:
        return {k: v for state in self.states() for k, v in load(state.weights).items()}


def trained_weights(run: TrainedRun) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted((run.dir / CHECKPOINT).glob("stage-?.safetensors")):
        found |= load(path.read_bytes())
    return found


LAYERS = [f"layer {n}" for n in ("embedding", "encoder.1", "encoder.2", "encoder.3")]
NEW = [
    f"{kind} encoder.{n}"
    for n in (4, 5)
    for kind in ("layer", "projection head after", "exit head after")
]


@pytest.mark.parametrize(
    ("changes", "stages", "new"),
    [
        ({}, 4, []),
        ({"stages": [2, 1, 1]}, 3, []),
        ({"stages": 2}, 2, []),
        ({"stages": 1}, 1, []),
        ({"model__layers": 5}, 6, NEW),
        ({"model__layers": 5, "stages": [4, 2]}, 2, [NEW[0], *NEW[3:]]),
        ({"model__layers": 2}, 3, []),
        ({"seed": 9, "model__dropout": 0.5, "train__batch_size": 8}, 4, []),
    ],
)
def test_any_cut_starts_from_the_same_weights(
    first: TrainedRun,
    texts: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    stages: int,
    new: list[str],
) -> None:
    second, there = Second(first, texts, tmp_path, **changes), trained_weights(first)
    assert len(second.specs) == stages
    mine = second.weights()
    shared = mine.keys() & there.keys()
    for name in shared:
        assert torch.equal(mine[name], there[name]), name
        assert mine[name].dtype == there[name].dtype
    layers = [n for spec in second.specs for n in spec.layers]
    ours = tuple(f"layers.{n}." for n in layers)
    assert {n for n in there if n.startswith(ours)} == {
        n for n in shared if n.startswith("layers.")
    }
    assert second.report["new"] == new
    for name in mine.keys() - shared:
        assert any(n.rsplit(" ", 1)[-1] in name for n in new), name
    wanted = [n for n in LAYERS if n.removeprefix("layer ") in layers]
    assert [n for n in second.report["taken"] if n.startswith("layer ")] == wanted
    assert second.report["run"] == str(first.dir)


def test_the_same_cut_starts_as_the_other_run_ended(
    first: TrainedRun, texts: Path, tmp_path: Path
) -> None:
    states = Second(first, texts, tmp_path).states()
    assert [s.sha256 for s in states] == first.summary["weights_sha256"]
    assert [s.next_step for s in states] == [0] * 4
    assert [load(s.optimizer) for s in states] == [{}] * 4


def test_new_layers_are_those_of_a_run_without_it(
    first: TrainedRun, texts: Path, tmp_path: Path
) -> None:
    states = Second(first, texts, tmp_path, model__layers=5).states()
    alone = LocalEngine(load_config(small_config(texts, tmp_path, model__layers=5)))
    info = alone.prepare_data().info
    names = build_model(alone.config, info).names
    alone.start(plan_stages(alone.config, partition(names, None)), None)
    fresh = [s.sha256 for s in alone.states()]
    alone.close()
    assert [s.sha256 for s in states][4:] == fresh[4:]
    assert not {s.sha256 for s in states[:4]} & set(fresh)


def test_a_stage_that_joins_later_takes_its_weights_too(
    first: TrainedRun, texts: Path, tmp_path: Path
) -> None:
    second = Second(first, texts, tmp_path, start=2)
    assert "layer encoder.2" not in second.report["taken"]
    for spec in second.specs[2:]:
        candidate = second.engine.prepare(spec, second.config, Ask())
        second.engine.join(candidate, 0)
    assert [s.sha256 for s in second.states()] == first.summary["weights_sha256"]


def test_the_other_runs_tokenizer_is_used(first: TrainedRun, others: Path, tmp_path: Path) -> None:
    own = LocalEngine(load_config(small_config(others, tmp_path)))
    assert own.prepare_data().info.tokenizer != _tokenizer(first)
    own.close()
    second = Second(first, others, tmp_path)
    assert second.info.tokenizer == second.initial.tokenizer == _tokenizer(first)
    assert second.info.sizes["train"] < 60
    assert [s.sha256 for s in second.states()] == first.summary["weights_sha256"]


def _tokenizer(run: TrainedRun) -> str:
    return (run.dir / CHECKPOINT / "tokenizer.json").read_text()


def test_a_whole_run_from_another(first: TrainedRun, others: Path, tmp_path: Path) -> None:
    tree = small_config(others, tmp_path, pipeline__engine="local", name="second")
    tree["model"] |= {"init_from": str(first.dir), "layers": 4}
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in first.dir.rglob("*.*")}
    heard = Heard()
    run = scpl_ray.train(tree, reporter=heard)
    taken = run.summary["init_from"]
    assert taken["run"] == str(first.dir)
    assert [n for n in taken["taken"] if n.startswith("layer ")] == LAYERS
    assert taken["new"] == NEW[:3]
    assert _tokenizer(run) == _tokenizer(first)
    assert heard.notices == [f"not in {first.dir}, so new: {', '.join(NEW[:3])}"]
    assert any(line.startswith(f"from {first.dir}: layer embedding, ") for line in heard.lines)
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in first.dir.rglob("*.*")}
    # A run from a run: the vocabulary goes on.
    third = Second(run, others, tmp_path, model__layers=4)
    assert [s.sha256 for s in third.states()] == run.summary["weights_sha256"]


class Heard(Reporter):
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.lines: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model__width": 32},
            r"layers.embedding.tokens.weight has shape \[\d+, 16\], this config's has \[\d+, 32\]; "
            r"use the other run's model settings \(they are in its config.yaml\)",
        ),
        ({"model__ffn": 24}, "layers.encoder.1.encoder.linear1.weight has shape .16, 16., "),
        (
            {"data__max_len": 12},
            "layers.embedding.positions.weight has shape .16, 16., this config's has .12, 16.",
        ),
        (
            {"local__exit_head": {"hidden": 5}},
            "heads.embedding.exit_head.0.weight has shape .16, 16., this config's has .5, 16.",
        ),
    ],
)
def test_a_shape_that_differs(
    first: TrainedRun, texts: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    where = re.escape(f"model.init_from: {first.dir}: ")
    with pytest.raises(CheckpointError, match=f"^{where}{words}"):
        Second(first, texts, tmp_path, **changes)


def test_no_layer_is_shared(first: TrainedRun, texts: Path, tmp_path: Path) -> None:
    factory = {"factory": "tests.unit.elastic_layers:bags", "options": {"layers": 2}}
    with pytest.raises(CheckpointError) as caught:
        Second(first, texts, tmp_path, model=factory)
    assert str(caught.value) == (
        f"model.init_from: {first.dir} has no layer of this config (bag, linear.1); it has "
        "embedding, encoder.1, encoder.2, encoder.3"
    )


def test_no_such_run(texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path)
    assert read_initial(load_config(tree)) is None
    tree["model"]["init_from"] = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no run at '.*nowhere'"):
        read_initial(load_config(tree))


def test_a_damaged_checkpoint(first: TrainedRun, texts: Path, tmp_path: Path) -> None:
    shutil.copytree(first.dir, tmp_path / "copy")
    path = tmp_path / "copy" / CHECKPOINT / "stage-2.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    tree = small_config(texts, tmp_path)
    tree["model"]["init_from"] = str(tmp_path / "copy")
    with pytest.raises(CheckpointError, match="stage-2.safetensors: its checksum differs"):
        read_initial(load_config(tree))


def test_the_weights_as_they_travel(first: TrainedRun, texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path)
    tree["model"]["init_from"] = str(first.dir)
    initial = read_initial(load_config(tree))
    assert isinstance(initial, Initial)
    there = trained_weights(first)
    travelled = load(initial.weights())
    assert travelled.keys() == there.keys()
    assert all(torch.equal(travelled[k], there[k]) for k in there)
