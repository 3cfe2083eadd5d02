"""The baselines are what they say: pipelined backpropagation is backpropagation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scpl_ray.bench.baselines import Baseline, Segment, baseline
from scpl_ray.bench.model import DEFAULT
from scpl_ray.config import Config, load_config
from scpl_ray.engine.data import load_data
from scpl_ray.errors import ConfigError
from scpl_ray.models.activation import from_batch
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages
from scpl_ray.stage_facts import StageSpec

STEPS = 4


@pytest.fixture(scope="module")
def config() -> Config:
    options = {"layers": 2, "width": 16, "depth": 1}
    model = {"factory": "scpl_ray.bench.model:build", "options": options}
    tree = {"model": model, "optimizer": {"name": "sgd"}, "resources": {"threads": 1}}
    return load_config(DEFAULT | tree, ["train.batch_size=16", "data.limit=200"])


@pytest.fixture(scope="module")
def specs(config: Config) -> list[StageSpec]:
    names = build_model(config, load_data(config)[1].info).names
    return plan_stages(config, partition(names, config.stages))


@pytest.fixture(scope="module")
def plain(config: Config, specs: list[StageSpec]) -> dict[str, torch.Tensor]:
    """The weights after some steps of plain PyTorch."""
    loader, ready = load_data(config)
    segments = [Segment(spec, config, ready.info, spec is specs[-1]) for spec in specs]
    network = nn.Sequential(*segments)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    for i in range(STEPS + 3):
        activation, labels = from_batch(loader.train_batch(i))
        optimizer.zero_grad()
        F.cross_entropy(network(activation.hidden), labels).backward()
        optimizer.step()
    return {
        f"{name}.{k}": v
        for segment in segments
        for name, layer in zip(segment.names, segment.stack, strict=True)
        for k, v in layer.state_dict().items()
    }


def differ(found: Baseline, plain: dict[str, torch.Tensor]) -> float:
    assert found.weights.keys() == plain.keys()
    return max(float(np.abs(found.weights[k] - v.numpy()).max()) for k, v in plain.items())


@pytest.mark.parametrize(
    ("kind", "micro", "most"),
    [("bp", 1, 1e-7), ("gpipe", 1, 1e-6), ("1f1b", 4, 1e-5)],
)
def test_the_weights_are_those_of_plain_pytorch(
    kind: str,
    micro: int,
    most: float,
    config: Config,
    specs: list[StageSpec],
    plain: dict[str, torch.Tensor],
) -> None:
    found = baseline(kind, config, specs, STEPS, micro)
    assert differ(found, plain) <= most
    assert found.step_ms > 0 and found.peak_mib >= 0


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_text_with_its_masks_and_states(model: str) -> None:
    tree = {
        "method": "scpl",
        "data": {"source": "movie_snippets", "limit": 100},
        "model": {"kind": model, "layers": 2, "width": 8, "heads": 2, "dropout": 0.0},
        "stages": [2, 1],
        "optimizer": {"name": "sgd"},
        "train": {"batch_size": 16},
        "resources": {"threads": 1},
    }
    config = load_config(tree)
    names = build_model(config, load_data(config)[1].info).names
    specs = plan_stages(config, partition(names, config.stages))
    whole = baseline("bp", config, specs, STEPS, 1)
    cut = baseline("1f1b", config, specs, STEPS, 2)
    assert whole.weights.keys() == cut.weights.keys()
    assert max(np.abs(cut.weights[k] - v).max() for k, v in whole.weights.items()) < 1e-5


def test_numbers_of_micro_batches() -> None:
    from scpl_ray.bench.compare import micro_batches

    assert micro_batches("gpipe", 24, 3) == [1, 2, 4, 8]
    assert micro_batches("1f1b", 24, 3) == [4, 8]
    with pytest.raises(ConfigError, match="train.batch_size: 3 cannot be divided into 2"):
        micro_batches("1f1b", 3, 2)
