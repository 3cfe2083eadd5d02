"""Convolutions that PyTorch cannot train in channels-last memory on a CPU."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from scpl_ray.errors import ConfigError

_LEAST = 16


def check_trainable(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuses what ends in a crash or in wrong gradients.

    The weights' gradient of a 1 x 1 convolution with a stride and few channels writes past its
    memory where the input is channels-last: oneDNN 3.12 on AVX2, below a block of 8 channels (16
    with AVX-512), https://github.com/uxlfoundation/oneDNN/issues/6035. The least is the same on all
    processors: a cluster may have several kinds.

    Args:
        layers: names and modules.

    Raises:
        ConfigError: a layer has such a convolution.
    """
    for name, layer in layers:
        for conv in layer.modules():
            if not isinstance(conv, nn.Conv2d) or set(conv.kernel_size) != {1}:
                continue
            channels = conv.in_channels // conv.groups
            if max(conv.stride) > 1 and channels < _LEAST:
                raise ConfigError(
                    f"resources.channels_last: true, but layer {name} has a 1 x 1 convolution with "
                    f"a stride on {channels} channels, whose gradient PyTorch's CPU kernels "
                    f"(oneDNN) compute wrongly in this format below {_LEAST} channels, or crash; "
                    f"allowed: false, or at least {_LEAST} channels"
                )
