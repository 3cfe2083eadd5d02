from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.batch import Batch
from scpl_ray.data.loader import BatchLoader
from scpl_ray.data.sources import load_raw
from scpl_ray.errors import DataError
from tests.helpers import write_texts


def loader(path: Path, seed: int = 0, batch: int = 16, **options: object) -> BatchLoader:
    return BatchLoader.prepare(DataConfig(path=str(path), **options), seed, batch, 32)


def rows(batch: Batch) -> list[tuple[int, ...]]:
    tokens, mask = batch.inputs["tokens"], batch.inputs["mask"]
    return [(*t[m].tolist(), -int(y)) for t, m, y in zip(tokens, mask, batch.labels, strict=True)]


def epoch(made: BatchLoader, number: int) -> list[tuple[int, ...]]:
    steps = made.steps_per_epoch
    return [r for i in range(steps) for r in rows(made.train_batch(number * steps + i))]


def test_each_sample_once_an_epoch_in_another_order(texts: Path) -> None:
    made = loader(texts)
    first, second = epoch(made, 0), epoch(made, 1)
    assert len(first) == made.info.sizes["train"] == 108
    assert sorted(first) == sorted(second)
    assert first != second
    assert len(made.train_batch(6).labels) == 12, "a ragged last batch: 6 x 16 + 12"


def test_any_batch_is_a_function_of_seed_and_step_alone(texts: Path) -> None:
    made, again, other = loader(texts, 3), loader(texts, 3), loader(texts, 4)
    far = rows(made.train_batch(19))
    assert rows(again.train_batch(2)) != far
    assert rows(again.train_batch(19)) == far == rows(made.train_batch(19))
    assert rows(other.train_batch(19)) != far


def test_padding_and_types(texts: Path) -> None:
    batch = loader(texts).train_batch(0)
    tokens, mask = batch.inputs["tokens"], batch.inputs["mask"]
    assert tokens.dtype == np.int64 and mask.dtype == bool and batch.labels.dtype == np.int64
    assert mask.any(0).all(), "padded to the longest of the batch, not further"
    assert (tokens[~mask] == 0).all() and (tokens[mask] > 0).all()


def test_splits_are_stratified_and_the_test_split_does_not_move(texts: Path) -> None:
    made = loader(texts, 1)
    assert made.info.sizes == {"train": 108, "validation": 12, "test": 30}
    assert made.eval_batch("test", 0).labels.sum() == 15
    one, two = (load_raw(DataConfig(path=str(texts)), seed).splits for seed in (1, 2))
    assert one["test"].samples == two["test"].samples, "the same test samples for every seed"
    assert one["validation"].samples != two["validation"].samples


def test_drop_last(texts: Path) -> None:
    config = DataConfig(path=str(texts))
    made = BatchLoader.prepare(config, 0, 16, 32, drop_last=True)
    assert made.steps_per_epoch == 6
    with pytest.raises(DataError, match=r"train\.batch_size: 200"):
        BatchLoader.prepare(config, 0, 200, 32, drop_last=True)


def test_vocabulary_knows_training_words_only(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"text": f"common w{i}", "label": i % 2} for i in range(100)]
    path.write_text("\n".join(map(json.dumps, lines)))
    made = loader(path)
    assert made.info.vocab_size == 2 + 1 + made.info.sizes["train"]
    for split in ("validation", "test"):
        tokens = made.eval_batch(split, 0).inputs["tokens"]
        assert (tokens[:, 1] == 1).all(), "each sample's own word is unknown"
    assert not (made.train_batch(0).inputs["tokens"] == 1).any()


def test_samples_that_end_up_empty_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"text": "..." if i < 10 else f"word w{i}", "label": i % 2} for i in range(100)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert sum(loader(path).info.sizes.values()) == 90


def test_limit_pool_and_train_order(texts: Path, tmp_path: Path) -> None:
    assert loader(texts, limit=20).info.sizes == {"train": 20, "validation": 12, "test": 20}
    test = write_texts(tmp_path / "test.jsonl", 50, seed=1)
    own = loader(texts, test_path=str(test))
    assert own.info.sizes["test"] == 50
    pooled = loader(texts, test_path=str(test), pool=True, test=0.5)
    assert pooled.info.sizes["test"] == 100
    made = loader(texts)
    assert made.num_eval_batches("train", 40) == 2
    assert len(made.eval_batch("train", 1, 40).labels) == 8


def test_no_validation(texts: Path) -> None:
    made = loader(texts, validation=0.0)
    assert made.info.sizes["validation"] == 0
    assert made.num_eval_batches("validation") == 0


@pytest.mark.parametrize(
    ("source", "shape", "samples"), [("digits", (1, 8, 8), 1797), ("mnist_5k", (1, 28, 28), 5000)]
)
def test_images(source: str, shape: tuple, samples: int) -> None:
    made = BatchLoader.prepare(DataConfig(source=source), 0, 64, 256)
    assert made.info.image_shape == shape and made.info.num_classes == 10
    assert sum(made.info.sizes.values()) == samples
    images = np.concatenate(
        [made.train_batch(i).inputs["images"] for i in range(made.steps_per_epoch)]
    )
    assert images.dtype == np.float32
    assert abs(images.mean()) < 1e-3 and abs(images.std() - 1) < 1e-3
