"""ResNet18 for small images, of torchvision's basic blocks (He et al. 2015, arXiv 1512.03385).

As in the published experiments (SCPL, arXiv 2602.00062): a 3 x 3 stem without pooling, four times
two blocks. They were cut into four stages, the stem in the first: `stages: [3, 2, 2, 2]`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from scpl_ray.config.schema import ModelConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.models.layers import LayeredModel, LayerSpec, Reduce, flatten, pooled
from scpl_ray.models.vision import ACTIVATIONS, fixed_widths, grown_widths


def resnet18(config: ModelConfig, data: DataInfo, pool: int | None = None) -> LayeredModel:
    """A stem and eight basic blocks; its classifier is the last exit head.

    Args:
        config: `channels` sets the width of each pair of blocks; `activation` is leaky_relu in the
            authors' code.
        data: gives (C, H, W).
        pool: average feature maps to pool x pool before the heads; None: flatten them. Behind the
            last pair of blocks the average is global, always: it belongs to the network.

    Returns:
        Layers stem, block.1 to block.8; 3, 5 and 7 halve the image by their stride.

    Raises:
        ConfigError: not four widths.
    """
    widths = fixed_widths(config, (64, 128, 256, 512))
    inside, height, width = data.image_shape
    reduce: Reduce = pooled(pool) if pool else flatten

    def features(channels: int) -> int:
        return channels * (pool * pool if pool else height * width)

    stem = partial(_stem, inside, widths[0], config.activation)
    specs = [LayerSpec("stem", stem, reduce, features(widths[0]))]
    inside = widths[0]
    # Each pair but the first halves the image at its beginning.
    strides = (1, 1, 2, 1, 2, 1, 2, 1)
    plan = [(widths[i // 2], stride) for i, stride in enumerate(strides)]
    published = len(plan)
    plan += [(c, 1) for c, _ in grown_widths(config, widths[-1])]
    for i, (channels, stride) in enumerate(plan, 1):
        height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
        build = partial(_block, inside, channels, stride, config.activation)
        if i < published:
            specs.append(LayerSpec(f"block.{i}", build, reduce, features(channels)))
        else:
            specs.append(LayerSpec(f"block.{i}", build, pooled(1), channels))
        inside = channels
    return LayeredModel(tuple(specs), style="image")


def _stem(inside: int, channels: int, activation: str) -> nn.Module:
    from torchvision.ops import Conv2dNormActivation

    return Conv2dNormActivation(
        inside, channels, 3, activation_layer=ACTIVATIONS[activation], inplace=False
    )


def _block(inside: int, channels: int, stride: int, activation: str) -> nn.Module:
    """One of torchvision's blocks, with a 1 x 1 convolution on the shortcut where shapes differ."""
    from torchvision.models.resnet import BasicBlock, conv1x1

    shortcut: nn.Module | None = None
    if stride != 1 or inside != channels:
        shortcut = nn.Sequential(conv1x1(inside, channels, stride), nn.BatchNorm2d(channels))
    block = BasicBlock(inside, channels, stride, shortcut)
    block.relu = ACTIVATIONS[activation](inplace=True)
    return block
