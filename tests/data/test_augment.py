"""Random views and label noise: functions of (seed, epoch, sample), whoever makes them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scpl_ray.bench import baselines
from scpl_ray.config import load_config
from scpl_ray.config.schema import DataConfig
from scpl_ray.data.augment import VIEWS, Augmenter
from scpl_ray.data.label_noise import add_label_noise
from scpl_ray.data.loader import BatchLoader
from scpl_ray.data.raw import RawData, RawSplit
from scpl_ray.data.sources import load_raw
from scpl_ray.engine.data import fetch, load_data
from scpl_ray.errors import DataError
from scpl_ray.job_checks import check_data
from scpl_ray.manifest import describe, described
from scpl_ray.models.activation import from_batch
from scpl_ray.schedule import Train
from tests.data.image_files import pixels, write_folder
from tests.helpers import run_job

KINDS = [kind for kind in VIEWS if kind != "none"]


def images(count: int = 12, size: int = 32) -> np.ndarray:
    return np.ascontiguousarray(pixels(count, 7, size).transpose(0, 3, 1, 2))


def loader(kind: str, batch: int = 16, seed: int = 0, **options: object) -> BatchLoader:
    config = DataConfig(**{"source": "digits", "limit": 100, "augment": kind, **options})
    return BatchLoader.prepare(config, seed, batch, 32)


def digest(made: BatchLoader, steps: list[int]) -> str:
    found = hashlib.sha256()
    for step in steps:
        batch = made.train_batch(step)
        found.update(batch.inputs["images"].tobytes() + batch.labels.tobytes())
    return found.hexdigest()


def weak_views(image: np.ndarray, padding: int) -> list[np.ndarray]:
    """Every crop of the padded image, and its mirror."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crops = [
        padded[:, y : y + height, x : x + width]
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    ]
    return [*crops, *(crop[:, :, ::-1] for crop in crops)]


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (8, 1)])
def test_a_weak_view_is_a_crop_of_the_padded_image_or_its_mirror(size: int, padding: int) -> None:
    given = images(60, size)
    views = Augmenter("weak", 0, size, size)(given, np.arange(60), 0)
    used = set()
    for image, view in zip(given, views, strict=True):
        found = [i for i, v in enumerate(weak_views(image, padding)) if (v == view).all()]
        assert len(found) == 1
        used.add(found[0])
    crops = (2 * padding + 1) ** 2
    assert {i // crops for i in used} == {0, 1}, "some are mirrored"
    assert len({i % crops for i in used}) > min(20, crops // 2)


def test_colours_change_and_sometimes_go(size: int = 16) -> None:
    given = images(300, size)
    strong = Augmenter("strong", 0, size, size)(given, np.arange(300), 0)
    grey = (strong == strong[:, :1]).all((1, 2, 3)).mean()
    assert 0.13 < grey < 0.27, "p 0.2"
    kept = [
        any((v == view).all() for v in weak_views(image, size // 8))
        for image, view in zip(given, strong, strict=True)
    ]
    assert 0.10 < np.mean(kept) < 0.23, "neither jitter nor grey: 0.2 * 0.8"


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_depends_on_seed_epoch_and_sample_alone(kind: str) -> None:
    given, rows = images(), np.arange(100, 112)
    made = Augmenter(kind, 3, 32, 32)
    views = made(given, rows, 5)
    v = VIEWS[kind]
    # In another order, one by one, by another object, with other states and threads.
    order = np.array([5, 2, 11, 0])
    torch.manual_seed(99)
    random.seed(99)
    mixed = Augmenter(kind, 3, 32, 32)(given[order], rows[order], 5)
    assert (mixed == np.concatenate([views[v * i : v * i + v] for i in order])).all()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        alone = [made(given[i : i + 1], rows[i : i + 1], 5) for i in range(12)]
    finally:
        torch.set_num_threads(before)
    assert (np.concatenate(alone) == views).all()
    for other in (
        Augmenter(kind, 4, 32, 32)(given, rows, 5),
        made(given, rows, 6),
        made(given, rows + 1, 5),
    ):
        assert (other != views).any()


def test_the_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Augmenter("two_views", 0, 32, 32)(images(), np.arange(12), 0)
    assert (torch.rand(3) == expected).all()


@pytest.mark.parametrize("kind", VIEWS)
def test_a_batch_is_a_function_of_config_and_step(kind: str) -> None:
    made = loader(kind)
    steps = [0, 1, made.steps_per_epoch, 3 * made.steps_per_epoch + 2]
    one = digest(made, steps)
    fresh = loader(kind)
    far = digest(fresh, steps[3:])
    digest(fresh, [7, 8])
    assert digest(fresh, steps) == one, "whatever was made before"
    assert digest(loader(kind), steps[3:]) == far, "as a resumed run makes it"
    assert digest(loader(kind, seed=1), steps) != one


def test_another_process_makes_the_same_batches() -> None:
    code = (
        "from tests.data.test_augment import digest, loader\n"
        "print(digest(loader('two_views'), [9, 4]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == digest(loader("two_views"), [9, 4]), done.stderr[-2000:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_batch_changes_no_view(kind: str) -> None:
    small, large = loader(kind, 16), loader(kind, 100)
    one = [small.train_batch(i).inputs["images"] for i in range(small.steps_per_epoch)]
    assert (np.concatenate(one) == large.train_batch(0).inputs["images"]).all()
    again = large.train_batch(large.steps_per_epoch)
    plain = loader("none", 100).train_batch(1)
    assert (again.labels == plain.labels.repeat(VIEWS[kind])).all()
    assert (again.inputs["images"] != plain.inputs["images"].repeat(VIEWS[kind], 0)).any()


def test_two_views_lie_side_by_side_with_one_label() -> None:
    two, weak, none = (loader(kind) for kind in ("two_views", "weak", "none"))
    batch, first = two.train_batch(2), weak.train_batch(2)
    assert batch.inputs["images"].shape == (32, 1, 8, 8) and batch.labels.shape == (32,)
    assert (batch.labels[0::2] == batch.labels[1::2]).all()
    assert (batch.labels[0::2] == none.train_batch(2).labels).all()
    assert (batch.inputs["images"][0::2] == first.inputs["images"]).all(), "the weak view"
    assert (batch.inputs["images"][1::2] != first.inputs["images"]).any()
    assert (two.info.views, weak.info.views) == (2, 1)
    assert two.steps_per_epoch == none.steps_per_epoch, "an epoch is each sample once"


def test_files_are_augmented_too(tmp_path: Path) -> None:
    path = str(write_folder(tmp_path, {"": 12}, size=16))
    made = [loader("two_views", source="folder", path=path, limit=None) for _ in range(2)]
    assert digest(made[0], [3]) == digest(made[1], [3])
    assert made[0].train_batch(0).inputs["images"].shape == (32, 3, 16, 16)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_evaluated_is_not_augmented(split: str) -> None:
    plain, augmented = loader("none").eval_batch(split, 0), loader("two_views").eval_batch(split, 0)
    assert (plain.inputs["images"] == augmented.inputs["images"]).all()
    assert (plain.labels == augmented.labels).all()


def test_samples_are_counted_once_and_accuracy_over_all_rows(tmp_path: Path) -> None:
    """A batch of 32 samples has 64 rows: the stages see 64, the run counts 32."""
    tree = {
        "data": {"source": "digits", "limit": 96, "augment": "two_views", "label_noise": 0.25},
        "model": {"kind": "convnet", "channels": [4, 4]},
        "train": {"epochs": 2, "batch_size": 32},
        "pipeline": {"engine": "local"},
        "resources": {"threads": 1, "device": "cpu"},
        "output": {"dir": str(tmp_path), "tensorboard": False},
    }
    run, _ = run_job(tree)
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if r["kind"] == "step"]
    assert [s["samples"] for r in steps for s in r["stages"]] == [64] * 2 * 3 * 2
    assert all(s["accuracy"] * 64 % 1 == 0 for r in steps for s in r["stages"])
    counted = run.summary["samples_per_second"] * run.summary["train_seconds"]
    assert counted == pytest.approx(2 * 96, rel=0.05)
    data = run.summary["data"]
    assert (data["views"], data["label_noise"], data["train"]) == (2, 0.25, 96)
    assert "24 of 96 training labels (25.0%)" in data["notice"]
    assert f"{data['wrong_labels']} ({data['wrong_labels'] / 96:.1%}) are wrong" in data["notice"]


def raw(labels: np.ndarray, classes: int) -> RawData:
    splits = {
        name: RawSplit([str(i) for i in range(len(labels))], labels.copy())
        for name in ("train", "validation", "test")
    }
    return RawData("x", "text", splits, tuple(map(str, range(classes))), "")


def test_label_noise_is_uniform_over_all_classes() -> None:
    labels = np.arange(40_000) % 4
    noisy = add_label_noise(raw(labels, 4), 0.2, 0)
    given = noisy.splits["train"].labels
    wrong = given != labels
    assert abs(wrong.mean() - 0.2 * 3 / 4) < 0.005, "a quarter of the draws is the true label"
    assert noisy.wrong_labels == wrong.sum()
    for label in range(4):
        own = np.bincount(given[wrong & (labels == label)], minlength=4)
        assert own[label] == 0
        assert np.abs(own[np.arange(4) != label] / own.sum() - 1 / 3).max() < 0.05
    assert "8,000 of 40,000 training labels (20.0%)" in noisy.notice
    assert "uniform draw over 4 classes" in noisy.notice
    for split in ("validation", "test"):
        assert (noisy.splits[split].labels == labels).all()
    assert noisy.splits["train"].samples == raw(labels, 4).splits["train"].samples


def test_label_noise_depends_on_the_seed_alone() -> None:
    labels = np.arange(500) % 10
    one, same, other = (
        add_label_noise(raw(labels, 10), 0.3, seed).splits["train"].labels for seed in (1, 1, 2)
    )
    assert (one == same).all() and (one != other).any()
    untouched = raw(labels, 10)
    assert add_label_noise(untouched, 0.0, 1) is untouched


def test_label_noise_stays_the_same_over_epochs_and_takes_text_too(texts: Path) -> None:
    clean = load_raw(DataConfig(path=str(texts)), 0).splits
    noisy = load_raw(DataConfig(path=str(texts), label_noise=0.5), 0).splits
    assert noisy["train"].samples == clean["train"].samples
    assert 10 < (noisy["train"].labels != clean["train"].labels).sum() < 45
    assert (noisy["test"].labels == clean["test"].labels).all()
    made = loader("none", 100, label_noise=0.5)
    plain = loader("none", 100)
    for step in (0, 1):
        own, true = made.train_batch(step), plain.train_batch(step)
        order = made.train_batch(step).inputs["images"]
        assert (order == true.inputs["images"]).all()
        assert (own.labels != true.labels).sum() == made.info.wrong_labels
    assert (
        made.eval_batch("validation", 0).labels == plain.eval_batch("validation", 0).labels
    ).all()


def test_workers_make_the_same_batches_ahead(tmp_path: Path) -> None:
    """And raise what they meet; a step may be asked for again."""
    path = write_folder(tmp_path, {"": 12}, size=16)
    tree = {
        "data": {"source": "folder", "path": str(path), "augment": "two_views"},
        "train": {"batch_size": 4},
        "pipeline": {"data_workers": 2},
    }
    made, _ = load_data(load_config(tree))
    plain, _ = load_data(load_config({**tree, "pipeline": {}}))
    for step in (0, 1, 2, 1, 3):
        own, expected = fetch(made, Train(step, 0)), plain.train_batch(step)
        assert own.step == step
        assert (own.inputs["images"] == expected.inputs["images"]).all()
        assert (own.labels == expected.labels).all()
    for file in path.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"\.png is not a readable image; mend or remove it$"):
        [fetch(made, Train(step, 0)) for step in range(4, 20)]


def test_micro_batches_of_two_views_are_whole(tmp_path: Path) -> None:
    """Baselines take whole batches only: 32 samples are 64 rows."""
    tree = {
        "data": {"source": "digits", "limit": 100, "augment": "two_views"},
        "train": {"batch_size": 32},
    }
    config = load_config(tree)
    made, ready = load_data(config)
    learner = SimpleNamespace(
        config=config, ready=ready, batch=lambda work: from_batch(fetch(made, work))
    )
    found = baselines._full_batches(learner, 4)
    assert [len(labels) for _, (_, labels) in found] == [64] * 4


def test_checkpoints_from_before_colour_images_are_read() -> None:
    info = loader("none").info
    tree = json.loads(json.dumps(describe(load_config({}), info, 1)))
    assert described(tree, "")[1] == info
    tree["data"]["pixel_stats"] = [0.25, 0.5]
    for new in ("views", "wrong_labels"):
        del tree["data"][new]
    assert described(tree, "")[1].pixel_stats == ((0.25,), (0.5,))


def test_options_without_effect_and_small_batches_are_said(texts: Path) -> None:
    def said(tree: dict) -> str:
        config = load_config(tree)
        return "\n".join(check_data(config, load_data(config)[1], 1))

    text = said({"data": {"path": str(texts), "augment": "weak", "image_size": 8}})
    assert "data.augment has no effect" in text and "data.image_size has no effect" in text
    assert "data.augment" not in said({"data": {"source": "digits", "augment": "weak"}})
    small = {"data": {"source": "digits", "limit": 100}, "train": {"batch_size": 16}}
    assert "below four times" in said(small)
    small["data"]["augment"] = "two_views"
    assert "below four times" not in said(small), "each view is the other's positive"
