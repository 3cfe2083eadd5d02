"""The network of the built-in benchmark: equal stages of a settable amount of work."""

from __future__ import annotations

from typing import Any

from torch import nn

from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.placement import num_cores
from scpl_ray.models.layers import LayeredModel, LayerSpec, flatten

DEFAULT = {
    "name": "bench",
    "data": {"source": "digits"},
    "model": {"factory": "scpl_ray.bench.model:build", "options": {"layers": 2, "width": 1024}},
    "local": {"projection_head": {"kind": "linear", "out": 128}, "exit_head": {"kind": "linear"}},
    "train": {"batch_size": 256, "drop_last": True, "epochs": 1000},
}


def default_for_growth() -> dict[str, Any]:
    """The same with as many stages as leave one core for the start of a new one."""
    stages = max(1, num_cores() - 1)
    options = {"layers": stages, "width": 1024}
    model = {"factory": "scpl_ray.bench.model:build", "options": options}
    return DEFAULT | {"model": model, "resources": {"threads": 1}}


def tiny(stages: int) -> dict[str, Any]:
    """So many stages of about a millisecond."""
    options = {"layers": stages, "width": 64, "depth": 1}
    model = {"factory": "scpl_ray.bench.model:build", "options": options}
    train = {"batch_size": 64, "drop_last": True, "epochs": 10_000}
    return DEFAULT | {"model": model, "train": train, "resources": {"threads": 1}}


UNEVEN = (1024, 256, 512, 1024, 128, 768, 1024)


def uneven(data: DataInfo, widths: tuple[int, ...] = UNEVEN) -> LayeredModel:
    """Builds layers of unequal width; each is twice Linear and ReLU.

    Args:
        data: images; flattened.
        widths: of the layers.
    """
    pixels = 1
    for size in data.image_shape:
        pixels *= size

    def layer(before: int, width: int, first: bool) -> nn.Module:
        flat: list[nn.Module] = [nn.Flatten()] if first else []
        return nn.Sequential(
            *flat, nn.Linear(before, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )

    def numbered(i: int, before: int, width: int) -> LayerSpec:
        return LayerSpec(f"mlp.{i}", lambda: layer(before, width, i == 1), flatten, width)

    pairs = zip((pixels, *widths), widths, strict=False)
    layers = tuple(numbered(i, *pair) for i, pair in enumerate(pairs, 1))
    return LayeredModel(layers, style="image")


def build(data: DataInfo, layers: int = 2, width: int = 1024, depth: int = 4) -> LayeredModel:
    """Builds `layers` equal layers; each is `depth` times Linear(width, width) and ReLU.

    Args:
        data: images; flattened and widened by the first layer.
        layers: number of layers.
        width: width of all of them.
        depth: matrix products in each.
    """
    pixels = 1
    for size in data.image_shape:
        pixels *= size

    def layer(first: bool) -> nn.Module:
        widen: list[nn.Module] = [nn.Flatten(), nn.Linear(pixels, width)] if first else []
        body: list[nn.Module] = []
        for _ in range(depth):
            body += [nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*widen, *body)

    def numbered(i: int) -> LayerSpec:
        return LayerSpec(f"mlp.{i}", lambda: layer(i == 1), flatten, width)

    return LayeredModel(
        tuple(numbered(i) for i in range(1, layers + 1)),
        style="image",
        more=lambda extra: numbered(layers + extra),
    )
