"""Every YAML in examples/ loads, resolves and builds; those of the papers learn from two batches."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scpl_ray.config import Config, load_config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import DataReady
from scpl_ray.engine.build import build_stage
from scpl_ray.engine.data import load_data
from scpl_ray.job_checks import check_before, check_data, check_elastic, make_vectors
from scpl_ray.models import Activation, build_model
from scpl_ray.objective import is_end_to_end
from scpl_ray.partition import partition
from scpl_ray.stage import Stage, plan_stages
from scpl_ray.stage_module import StageModule
from tests.data.image_files import write_cifar
from tests.helpers import run_job, write_texts
from tests.unit.tools import all_finite, back_and_forth, build_stages, text_batch

EXAMPLES = Path(__file__).parents[2] / "examples"
OTHERS = sorted(set(EXAMPLES.rglob("*.yaml")) - set((EXAMPLES / "paper").rglob("*")))
VISION = sorted((EXAMPLES / "paper/vision").iterdir())
TEXTS = sorted((EXAMPLES / "paper/text").iterdir())
# Classes, then the shape of an image.
DATA: dict[str, tuple[int, tuple[int, ...]]] = {
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "tiny_imagenet": (200, (3, 32, 32)),
    "mnist_5k": (10, (1, 28, 28)),
    "digits": (10, (1, 8, 8)),
    "ag_news": (4, ()),
    "dbpedia_14": (14, ()),
    "sst2": (2, ()),
    "imdb": (2, ()),
    "rotten_tomatoes": (2, ()),
    "movie_snippets": (2, ()),
}
# A sixteenth of the published widths: what heads and backbone cost falls to a hundredth.
NARROW = {
    "vgg8": [8, 16, 16, 32, 32, 32],
    "resnet18": [4, 8, 16, 32],
    "vanillacnn": [2] * 4 + [4] * 4,
}
SMALL_HEADS = [
    "local.projection_head.hidden=8",
    "local.projection_head.out=8",
    "local.exit_head.hidden=8",
    "local.associated.width=8",
]
WIDE = ["vgg8_cifar100_scpl", "resnet18_tiny_imagenet_ee", "vanillacnn_cifar10_bp"]
Batch = tuple[Activation, Tensor]


def named(path: Path) -> str:
    return path.stem


def facts(settings: Config) -> DataInfo:
    """What the data of a config would be, with a small vocabulary."""
    data = settings.data
    classes, shape = DATA[data.source]
    text = not shape
    return DataInfo(
        name=data.source,
        requested=data.source,
        kind="text" if text else "image",
        label_names=tuple(map(str, range(classes))),
        sizes={},
        vocab_size=50 if text else 0,
        max_len=data.max_len if text else 0,
        image_shape=shape,
        views=2 if data.augment == "two_views" else 1,
    )


def image_pairs(info: DataInfo, seed: int) -> Batch:
    """Two images in two views each: rows side by side, as the loader gives them."""
    assert info.views == 2
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randn(4, *info.image_shape, generator=draw)
    return Activation(pixels), torch.tensor([0, 0, info.num_classes - 1, info.num_classes - 1])


def texts(longest: int, seed: int) -> Batch:
    return text_batch(seed, (longest, 3, 2, 5))


def learn(stages: list[Stage], settings: Config, step: int, batch: Batch) -> list[Any]:
    """One batch through stages, as the config's method trains them."""
    if is_end_to_end(settings.method):
        return back_and_forth(stages, step, *batch)
    (given, labels), stats = batch, []
    for stage in stages:
        given = stage.forward(step, given, labels)
        stats.append(stage.update(step))
    return stats


def learn_twice(settings: Config, info: DataInfo, batches: list[Batch]) -> None:
    """Trains two batches and checks that every stage learned; between them stages join or leave."""
    stages = build_stages(settings, info)
    elastic = settings.elastic
    first = stages[: elastic.start_stages]
    then = stages[:-1] if elastic.shrink_at.epoch else stages
    before = [stage.module.weights_sha256() for stage in stages]
    stats = learn(first, settings, 0, batches[0])
    for stage in stages[len(first) :]:
        stage.begin(1)
    stats += learn(then, settings, 1, batches[1])
    assert len(first) == elastic.start_stages or first == stages
    assert all(math.isfinite(s.loss) for s in stats)
    assert all(all_finite(stage.module) for stage in stages)
    # An embedding under an identity head has a loss too; a stage of bp has a gradient.
    after = [stage.module.weights_sha256() for stage in stages]
    assert all(a != b for a, b in zip(after, before, strict=True))


def said_of(settings: Config, info: DataInfo, stages: int) -> str:
    """What a run would say of its options before it trains."""
    ready = DataReady(info, 49, 5, 10, 40)
    said = check_data(settings, ready, stages)
    said += check_elastic(settings, 49, settings.elastic.start_stages or stages)
    return "\n".join(said)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the text experiments ask for: word vectors of 300 numbers."""
    words = ("alpha", "kappa")
    lines = [f"{w} {' '.join([str(0.01 * i)] * 300)}\n" for i, w in enumerate(words, 1)]
    (tmp_path / "glove.6B.300d.txt").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OTHERS, ids=named)
def test_an_example_loads_resolves_and_builds(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The two with code of their own are run from their folder.
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(str(path.parent))
    settings = load_config(path)
    if settings.model.kind == "huggingface":
        settings = load_config(path, [f"model.path={a_small_network(tmp_path, monkeypatch)}"])
    check_before(settings)
    info = facts(settings)
    stages = plan_stages(settings, partition(build_model(settings, info).names, settings.stages))
    # Shapes alone, without memory, where no weights are read.
    with torch.device("cpu" if settings.model.kind == "huggingface" else "meta"):
        for spec in stages:
            StageModule(spec, build_model(settings, info), settings, info.num_classes)
    assert len(stages) > 1
    assert "no effect" not in said_of(settings, info, len(stages))


def a_small_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What lies on the Hub under the id of the example, only narrow."""
    transformers = pytest.importorskip("transformers", reason="needs scpl-ray[huggingface]")
    from scpl_ray import huggingface

    monkeypatch.setattr(huggingface, "_unreachable", lambda: "a test does not ask")
    narrow = transformers.AutoConfig.for_model("distilbert", dim=12, hidden_dim=16, vocab_size=60)
    assert narrow.n_layers == 6
    transformers.AutoModel.from_config(narrow).save_pretrained(folder)
    return folder


# --- of the papers ---------------------------------------------------------------------------------


def test_the_files_are_what_the_table_says() -> None:
    folder = EXAMPLES / "paper"
    made = runpy.run_path(str(folder / "make.py"))["files"]()
    found = {p.relative_to(folder).as_posix(): p.read_text() for p in (*VISION, *TEXTS)}
    assert found == made, "run: python examples/paper/make.py"


@pytest.mark.parametrize("path", [*VISION, *TEXTS], ids=named)
def test_a_published_experiment_is_as_published(path: Path, here: Path) -> None:
    settings = load_config(path)
    check_before(settings)
    model, data, method = settings.model, settings.data, settings.method
    assert path.stem.startswith(f"{model.kind}_{data.source}_{method}")
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"#   scpl-ray train examples/{path.relative_to(EXAMPLES)} --repeats 5" in head
    figure = next(line for line in head if line.startswith("# Published figure: "))
    known = {"ag_news": "92.12", "imdb": "89.84", "tiny_imagenet": "48.95"}
    wanted = known.get(data.source, "not at hand") if method == "scpl" else "not at hand"
    assert wanted in figure
    train, optimizer = settings.train, settings.optimizer
    vision = path in VISION
    assert (train.batch_size, train.epochs) == (1024, 200 if vision else 50)
    assert (optimizer.name, optimizer.lr) == ("adam", 1e-3)
    assert (optimizer.schedule, optimizer.end_lr) == (
        ("cosine", 1e-5) if vision else ("constant", 0)
    )
    assert settings.local.temperature == 0.1
    info = facts(settings)
    names = build_model(settings, info).names
    assert len(partition(names, settings.stages)) == 4
    assert "no effect" not in said_of(settings, info, 4)


@pytest.mark.parametrize("path", VISION, ids=named)
def test_a_vision_experiment_learns_from_two_batches(path: Path) -> None:
    """At a sixteenth of its width; that it fits at full width is asked without memory."""
    plain = load_config(path)
    full_width(plain)
    narrow = [f"model.channels={NARROW[plain.model.kind]}", *SMALL_HEADS]
    settings = load_config(plain, narrow)
    info = facts(settings)
    learn_twice(settings, info, [image_pairs(info, 0), image_pairs(info, 1)])


def full_width(settings: Config) -> None:
    """Builds all stages as published, and passes one batch, on a device that only knows shapes."""
    info = facts(settings)
    model = build_model(settings, info)
    widths = []
    with torch.device("meta"):
        given = Activation(torch.zeros(4, *info.image_shape))
        for spec in plan_stages(settings, partition(model.names, settings.stages)):
            module = StageModule(spec, model, settings, info.num_classes).train()
            given = module.run_layers(given, 0, 0)
            widths.append(module.reduce(given).shape[1])
            exit_head = module.objective.exit_head
            if exit_head is not None:
                assert exit_head(module.reduce(given)).shape == (4, info.num_classes)
    published = {
        "vgg8": [256 * 16 * 16, 512 * 8 * 8, 512 * 4 * 4, 512 * 2 * 2],
        "resnet18": [64 * 32 * 32, 128 * 16 * 16, 256 * 8 * 8, 512],
        "vanillacnn": [32 * 32 * 32, 32 * 16 * 16, 64 * 16 * 16, 64 * 8 * 8],
    }
    assert widths == published[settings.model.kind]


@pytest.mark.parametrize("name", WIDE)
def test_a_vision_experiment_as_it_stands(name: str) -> None:
    settings = load_config(EXAMPLES / f"paper/vision/{name}.yaml")
    info = facts(settings)
    learn_twice(settings, info, [image_pairs(info, 0), image_pairs(info, 1)])


def test_accumulation_and_reduction_run_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole jobs on small files in the published form; a stage joins or leaves at each epoch."""
    write_cifar("cifar10", tmp_path, monkeypatch)
    found = {}
    for way, key in (("accumulate", "grow_at"), ("reduce", "shrink_at")):
        quick = [
            f"model.channels={NARROW['vgg8']}",
            *SMALL_HEADS,
            f"elastic.{key}.epoch=[1,2,3]",
            f"data.path={tmp_path}",
            f"output.dir={tmp_path}",
            "output.tensorboard=false",
            "train.epochs=4",
            "train.batch_size=16",
            "pipeline.engine=local",
            "pipeline.data_workers=0",
        ]
        path = EXAMPLES / f"paper/vision/vgg8_cifar10_dascpl_{way}.yaml"
        run, _ = run_job(load_config(path, quick).model_dump(exclude_unset=True))
        found[way] = run.summary
        assert [e["stage"] for e in run.summary["exits"]] == [1, 2, 3, 4]
    # 36 images are three steps an epoch.
    grown = [(c["stage"], c["step"]) for c in found["accumulate"]["grown"]]
    assert grown == [(2, 3), (3, 6), (4, 9)]
    shrunk = [(c["stage"], c["step"]) for c in found["reduce"]["shrunk"]]
    assert shrunk == [(4, 3), (3, 6), (2, 9)]
    # The first stage trains all the time in both, and nothing that comes behind it reaches it.
    one, other = (found[way]["weights_sha256"] for way in ("accumulate", "reduce"))
    assert one[0] == other[0] and one[1] != other[1]


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_a_text_experiment_learns_from_two_batches(path: Path) -> None:
    settings = load_config(path)
    info = facts(settings)
    # Batches are padded to their longest text. As long as texts may be: once for each network.
    longest = info.max_len if settings.method == "dascpl" else min(info.max_len, 20)
    learn_twice(settings, info, [texts(longest, 0), texts(7, 1)])


def test_a_text_experiment_starts_from_its_word_vectors(here: Path) -> None:
    write_texts(here / "texts.jsonl")
    path = EXAMPLES / "paper/text/lstm_ag_news_scpl.yaml"
    settings = load_config(path, ["data.source=file", "data.path=texts.jsonl"])
    _, ready = load_data(settings)
    info = ready.info
    names = build_model(settings, info).names
    spec = plan_stages(settings, partition(names, settings.stages))[0]
    vectors = make_vectors(settings, info)
    first = build_stage(spec, settings, info, 10, 5, "cpu", vectors).module.named_state()
    (table,) = [v for k, v in first.items() if v.shape == (info.vocab_size, 300)]
    rows = [row for row in table if torch.allclose(row, row[0].expand(300)) and row[0] > 0]
    assert sorted(round(float(row[0]), 2) for row in rows) == [0.01, 0.02]
