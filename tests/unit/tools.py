"""What the unit tests share: small data facts, configs, batches and stages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scpl_ray.config import Config, load_config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.build import build_stage
from scpl_ray.models import Activation, build_model
from scpl_ray.partition import partition
from scpl_ray.stage import Stage, plan_stages
from scpl_ray.stage_module import StageModule

TEXT = DataInfo(
    name="t",
    requested="t",
    kind="text",
    label_names=("a", "b"),
    sizes={},
    vocab_size=50,
    max_len=16,
)


def image_info(*shape: int) -> DataInfo:
    return DataInfo(
        name="i",
        requested="i",
        kind="image",
        label_names=("a", "b", "c"),
        sizes={},
        image_shape=shape,
    )


def config(**changes: Any) -> Config:
    """A small config; `changes` use `__` for a dot."""
    tree: dict[str, Any] = {"model": {"layers": 2, "width": 8, "heads": 2, "dropout": 0.0}}
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return load_config(tree)


def text_batch(seed: int = 0, lengths: tuple[int, ...] = (3, 7, 5, 7)) -> tuple[Activation, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 49, (len(lengths), max(*lengths, 1)), generator=draw)
    mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return Activation(tokens * mask, mask), torch.arange(len(lengths)) % 2


def image_batch(info: DataInfo, size: int = 6) -> tuple[Activation, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        Activation(torch.randn(size, *info.image_shape, generator=draw)),
        torch.arange(size) % info.num_classes,
    )


def build_stages(settings: Config, info: DataInfo = TEXT, total_steps: int = 10) -> list[Stage]:
    names = build_model(settings, info).names
    specs = plan_stages(settings, partition(names, settings.stages))
    return [build_stage(s, settings, info, total_steps, 5, "cpu", None) for s in specs]


def modules(settings: Config, info: DataInfo = TEXT) -> list[StageModule]:
    return [stage.module.eval() for stage in build_stages(settings, info)]


def train(stages: list[Stage], batches: list[tuple[Activation, Tensor]]) -> list[list[Any]]:
    """Trains all stages in order on each batch; returns the stats of each step."""
    stats = []
    for step, (activation, labels) in enumerate(batches):
        row = []
        for stage in stages:
            activation = stage.forward(step, activation, labels)
            row.append(stage.update(step))
        stats.append(row)
    return stats


def back_and_forth(stages: list[Stage], step: int, given: Activation, labels: Tensor) -> list[Any]:
    """Trains one batch end to end: forward through all stages, then the gradient back."""
    for stage in stages:
        given = stage.forward(step, given.map(torch.clone), labels)
    gradient, stats = None, []
    for stage in reversed(stages):
        stats.insert(0, stage.update(step, gradient))
        gradient = stage.input_gradient
    return stats


def all_finite(module: torch.nn.Module) -> bool:
    return all(bool(t.isfinite().all()) for t in module.state_dict().values())
