"""The baselines are what they say: pipelined backpropagation is backpropagation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scpl_ray.bench.baselines import Baseline, baseline
from scpl_ray.bench.end_to_end import Trained, train_end_to_end
from scpl_ray.bench.kinds import check_kind, micro_batches, of_rows
from scpl_ray.bench.model import DEFAULT
from scpl_ray.bench.segment import Segment
from scpl_ray.config import Config, load_config
from scpl_ray.engine.data import load_data
from scpl_ray.errors import ConfigError
from scpl_ray.models.activation import from_batch
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages
from scpl_ray.stage_facts import StageSpec

STEPS = 4
# The last batch of an epoch has 7 rows: one micro-batch, and for 1F1B of 4 none that fits.
SAMPLES = 3 * 16 + 7


@pytest.fixture(scope="module")
def config() -> Config:
    options = {"layers": 2, "width": 16, "depth": 1}
    model = {"factory": "scpl_ray.bench.model:build", "options": options}
    tree = {"model": model, "optimizer": {"name": "sgd"}, "resources": {"threads": 1}}
    limits = [f"data.limit={SAMPLES}", "train.epochs=2", "train.clip_norm=0.5"]
    return load_config(DEFAULT | tree, ["train.batch_size=16", "train.drop_last=false", *limits])


def stages_of(config: Config) -> list[StageSpec]:
    names = build_model(config, load_data(config)[1].info).names
    return plan_stages(config, partition(names, config.stages))


def plain(config: Config, specs: list[StageSpec], steps: Iterable[int]) -> dict[str, torch.Tensor]:
    """The weights after some steps of plain PyTorch."""
    loader, ready = load_data(config)
    segments = [Segment(spec, config, ready.info, spec is specs[-1]) for spec in specs]
    network = torch.nn.Sequential(*segments)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    for i in steps:
        activation, labels = from_batch(loader.train_batch(i))
        optimizer.zero_grad()
        F.cross_entropy(network(activation.hidden), labels).backward()
        if config.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.clip_norm)
        optimizer.step()
    return {name: v for segment in segments for name, v in segment.weights().items()}


def differ(found: Baseline | Trained, weights: dict[str, torch.Tensor]) -> float:
    assert found.weights.keys() == weights.keys()
    return max(float(np.abs(found.weights[k] - v.numpy()).max()) for k, v in weights.items())


def test_steps_of_one_process(config: Config) -> None:
    specs = stages_of(config)
    found = baseline("bp-one-core", config, specs, STEPS, 1)
    loader, _ = load_data(config)
    whole = [i for i in range(20) if (i + 1) % loader.steps_per_epoch][: STEPS + 3]
    assert differ(found, plain(config, specs, whole)) <= 1e-7
    assert found.step_ms > 0 and found.peak_mib >= 0


@pytest.fixture(scope="module")
def ragged(config: Config) -> tuple[Config, list[StageSpec], dict[str, torch.Tensor]]:
    """A job whose last batches are smaller, and the weights that plain PyTorch gets."""
    _, ready = load_data(config)
    assert ready.info.sizes["train"] == SAMPLES and ready.steps_per_epoch == 4
    specs = stages_of(config)
    return config, specs, plain(config, specs, range(8))


@pytest.mark.parametrize(
    ("kind", "micro", "most"), [("gpipe", 1, 1e-6), ("1f1b", 4, 1e-5), ("zero-bubble", 4, 1e-5)]
)
def test_a_whole_training_has_the_weights_of_plain_pytorch(
    kind: str,
    micro: int,
    most: float,
    ragged: tuple[Config, list[StageSpec], dict[str, torch.Tensor]],
) -> None:
    config, specs, weights = ragged
    found = train_end_to_end(kind, config, specs, micro, keep_weights=True)
    assert differ(found, weights) <= most
    assert found.processes == len(specs) == len(found.waiting) == 2
    assert all(0 <= share < 1 for share in found.waiting)


def test_text_with_its_masks_and_states() -> None:
    tree = {
        "data": {"source": "movie_snippets", "limit": 40},
        "model": {"kind": "lstm", "layers": 2, "width": 8, "dropout": 0.0},
        "stages": [2, 1],
        "optimizer": {"name": "sgd"},
        "train": {"batch_size": 16, "epochs": 1, "select": "best"},
        "resources": {"threads": 1},
    }
    config = load_config(tree)
    specs = stages_of(config)
    whole = train_end_to_end("bp-one-core", config, specs, keep_weights=True)
    cut = train_end_to_end("zero-bubble", config, specs, keep_weights=True)
    assert cut.tried_ms.keys() == {1, 2, 4, 8, 16}
    assert cut.micro_batches == min(cut.tried_ms, key=cut.tried_ms.__getitem__)
    assert whole.weights.keys() == cut.weights.keys()
    assert max(np.abs(cut.weights[k] - v).max() for k, v in whole.weights.items()) < 1e-5
    assert {k: v.samples for k, v in cut.results.items()} == {
        k: v.samples for k, v in whole.results.items()
    }
    for split, result in whole.results.items():
        assert cut.results[split].loss == pytest.approx(result.loss, abs=1e-5)


def test_numbers_of_micro_batches() -> None:
    assert micro_batches("gpipe", 24, 3) == [1, 2, 4, 8]
    assert micro_batches("1f1b", 24, 3) == [4, 8]
    assert micro_batches("zero-bubble", 48, 3) == [1, 2, 4, 8]
    with pytest.raises(ConfigError, match="train.batch_size: 3 cannot be divided into 2"):
        micro_batches("1f1b", 3, 2)
    with pytest.raises(ConfigError, match="stages: 1f1b needs as many micro-batches"):
        micro_batches("1f1b", 64, 17)


def test_a_smaller_last_batch_is_cut_into_what_divides_it() -> None:
    assert of_rows("gpipe", 7, 4, 2) == 1 and of_rows("gpipe", 6, 4, 2) == 3
    assert of_rows("1f1b", 7, 4, 2) is None and of_rows("1f1b", 9, 4, 2) == 3
    assert of_rows("zero-bubble", 5, 5, 2) == 1


def test_what_cannot_be_trained_so_is_said() -> None:
    one, two = [("a", "b")], [("a",), ("b",)]
    with pytest.raises(ConfigError, match="zero-bubble is a pipeline of at least 2 stages.*1"):
        check_kind("zero-bubble", load_config({}), one)
    check_kind("bp", load_config({}), one)
    with pytest.raises(ConfigError, match="resources.compile"):
        check_kind("zero-bubble", load_config({}, ["resources.compile=true"]), two)
    with pytest.raises(ConfigError, match="model.init_from"):
        check_kind("bp", load_config({}, ["model.init_from=other"]), two)
