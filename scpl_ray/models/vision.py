"""Image models. A small convolutional network for now; VGG8 and ResNet18 come here."""

from __future__ import annotations

from torch import nn

from scpl_ray.config.schema import ModelConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.models.layers import LayeredModel, LayerSpec, Reduce, flatten, pooled


def convnet(config: ModelConfig, data: DataInfo, pool: int | None = None) -> LayeredModel:
    """Convolution-BatchNorm-ReLU layers, each halving the image while it is larger than 2.

    Args:
        config: `channels` sets one layer each; `dropout` acts on whole channels.
        data: gives (C, H, W).
        pool: average feature maps to pool x pool before the heads; None: flatten them.

    Returns:
        Layers conv.1, conv.2, ...
    """
    in_channels, height, width = data.image_shape
    specs: list[LayerSpec] = []
    for i, (channels, dropout) in enumerate(_plan(config), 1):
        shrink = min(height, width) > 2
        specs.append(_conv(i, in_channels, channels, shrink, dropout))
        if shrink:
            height, width = height // 2, width // 2
        reduce: Reduce = pooled(pool) if pool else flatten
        features = channels * (pool * pool if pool else height * width)
        specs[-1] = LayerSpec(specs[-1].name, specs[-1].build, reduce, features)
        in_channels = channels
    return LayeredModel(tuple(specs), style="image")


def _plan(config: ModelConfig) -> list[tuple[int, float]]:
    """Channels and dropout of each layer; one that joins is as wide as the layer before it."""
    plan = [(channels, config.dropout) for channels in config.channels]
    for joined in config.grown:
        if "factory" in joined.change:
            continue
        widths = joined.change.get("channels", [plan[-1][0]])
        dropout = joined.change.get("dropout", config.dropout)
        # Fewer widths than layers: the last one goes on.
        plan += [(widths[min(i, len(widths) - 1)], dropout) for i in range(joined.layers)]
    return plan


def _conv(index: int, inside: int, outside: int, shrink: bool, dropout: float) -> LayerSpec:
    def build() -> nn.Module:
        # Imported where it is used: torchvision takes 2 s, which no text stage should wait for.
        from torchvision.ops import Conv2dNormActivation

        layers: list[nn.Module] = [Conv2dNormActivation(inside, outside, 3, inplace=False)]
        if shrink:
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.Dropout2d(dropout))

    return LayerSpec(f"conv.{index}", build, flatten)
