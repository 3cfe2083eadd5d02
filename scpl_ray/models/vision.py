"""Chains of convolutions: a small one, and the published VGG8 and VanillaCNN.

The published networks (SCPL, arXiv 2602.00062) are made for 32 x 32 pixels and were cut into four
stages: `stages: [2, 2, 1, 1]` for vgg8, `[2, 2, 2, 2]` for vanillacnn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn

from scpl_ray.config.schema import ModelConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import ConfigError
from scpl_ray.models.layers import LayeredModel, LayerSpec, Reduce, flatten, pooled

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


@dataclass(frozen=True)
class Convolution:
    """One layer: 3 x 3 convolution, BatchNorm, activation, then pooling and dropout.

    Attributes:
        channels: it gives.
        stride: of the convolution.
        pool: whether 2 x 2 max pooling follows.
        norm: whether there is a BatchNorm; without one the convolution has a bias.
        dropout: share of zeroed channels.
    """

    channels: int
    stride: int = 1
    pool: bool = False
    norm: bool = True
    dropout: float = 0.0

    def size(self, pixels: int) -> int:
        """Pixels that are left of so many, in one direction."""
        left = (pixels - 1) // self.stride + 1
        return left // 2 if self.pool else left

    def build(self, inside: int, activation: str) -> nn.Module:
        """Makes the module, [B, inside, H, W] -> [B, channels, H', W']."""
        # Imported where it is used: torchvision takes 2 s, which no text stage should wait for.
        from torchvision.ops import Conv2dNormActivation

        layers: list[nn.Module] = [
            Conv2dNormActivation(
                inside,
                self.channels,
                3,
                self.stride,
                norm_layer=nn.BatchNorm2d if self.norm else None,
                activation_layer=ACTIVATIONS[activation],
                inplace=False,
            )
        ]
        if self.pool:
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.Dropout2d(self.dropout))


def convnet(config: ModelConfig, data: DataInfo, pool: int | None = None) -> LayeredModel:
    """Convolution-BatchNorm-ReLU layers, each halving the image while it is larger than 2.

    Args:
        config: `channels` sets one layer each; `dropout` acts on whole channels.
        data: gives (C, H, W).
        pool: average feature maps to pool x pool before the heads; None: flatten them.

    Returns:
        Layers conv.1, conv.2, ...
    """
    small = min(data.image_shape[1:])
    plan = [(channels, config.dropout) for channels in config.channels or (32, 64, 128)]
    plan += grown_widths(config, plan[-1][0])
    chain = [
        # Halved i times before: is it still larger than 2?
        Convolution(channels, pool=small >> i > 2, dropout=dropout)
        for i, (channels, dropout) in enumerate(plan)
    ]
    return _chain(config, data, pool, chain)


def vgg8(config: ModelConfig, data: DataInfo, pool: int | None = None) -> LayeredModel:
    """VGG8: [128, 256, M] [256, 512, M] [512, M] [512, M]; its classifier is the last exit head.

    Args:
        config: `channels` narrows it.
        data: gives (C, H, W).
        pool: average feature maps to pool x pool before the heads; None: flatten them.

    Returns:
        Layers conv.1 to conv.6; 2, 4, 5 and 6 end in a max pooling.

    Raises:
        ConfigError: the image is too small, or not six widths.
    """
    small = min(data.image_shape[1:])
    if small < 16:
        raise ConfigError(
            f"model.kind: 'vgg8' halves the image four times, and {data.name!r} gives "
            f"{data.image_shape[1]} x {data.image_shape[2]} pixels; it needs 16 or more: take "
            "convnet, resnet18 or vanillacnn"
        )
    widths = fixed_widths(config, (128, 256, 256, 512, 512, 512))
    chain = [Convolution(c, pool=i in (2, 4, 5, 6)) for i, c in enumerate(widths, 1)]
    chain += [Convolution(c) for c, _ in grown_widths(config, widths[-1])]
    return _chain(config, data, pool, chain)


def vanillacnn(config: ModelConfig, data: DataInfo, pool: int | None = None) -> LayeredModel:
    """Eight convolutions without BatchNorm, four of 32 and four of 64 channels.

    Args:
        config: `channels` narrows it.
        data: gives (C, H, W).
        pool: average feature maps to pool x pool before the heads; None: flatten them.

    Returns:
        Layers conv.1 to conv.8; 4 and 8 halve the image by their stride.

    Raises:
        ConfigError: not eight widths.
    """
    widths = fixed_widths(config, (32,) * 4 + (64,) * 4)
    chain = [Convolution(c, 2 if i in (4, 8) else 1, norm=False) for i, c in enumerate(widths, 1)]
    chain += [Convolution(c, norm=False) for c, _ in grown_widths(config, widths[-1])]
    return _chain(config, data, pool, chain)


def fixed_widths(config: ModelConfig, published: tuple[int, ...]) -> tuple[int, ...]:
    """The network's widths, or as many of one's own.

    Raises:
        ConfigError: another number of widths.
    """
    if config.channels is None:
        return published
    if len(config.channels) != len(published):
        raise ConfigError(
            f"model.channels: {config.channels} has {len(config.channels)} widths; {config.kind} "
            f"takes {len(published)} (published: {list(published)})"
        )
    return tuple(config.channels)


def grown_widths(config: ModelConfig, last: int) -> Iterator[tuple[int, float]]:
    """Channels and dropout of the layers that joined; each is as wide as the one before it."""
    for joined in config.grown:
        if "factory" in joined.change:
            continue
        widths = joined.change.get("channels", [last])
        for i in range(joined.layers):
            # Fewer widths than layers: the last one goes on.
            last = widths[min(i, len(widths) - 1)]
            yield last, joined.change.get("dropout", config.dropout)


def _chain(
    config: ModelConfig, data: DataInfo, pool: int | None, chain: list[Convolution]
) -> LayeredModel:
    inside, height, width = data.image_shape
    reduce: Reduce = pooled(pool) if pool else flatten
    specs: list[LayerSpec] = []
    for i, own in enumerate(chain, 1):
        height, width = own.size(height), own.size(width)
        features = own.channels * (pool * pool if pool else height * width)
        build = partial(own.build, inside, config.activation)
        specs.append(LayerSpec(f"conv.{i}", build, reduce, features))
        inside = own.channels
    return LayeredModel(tuple(specs), style="image")
