"""A network of your own: ordered, named layers, and how to reduce their output.

Run from this folder: scpl-ray train own_model.yaml
"""

from torch import Tensor, nn

from scpl_ray.data.batch import DataInfo
from scpl_ray.models import Activation


def build(data: DataInfo, width: int = 128) -> tuple[list[tuple[str, nn.Module]], object]:
    """Returns ([(name, module), ...], reduce)."""
    channels, height, _ = data.image_shape
    layers = [
        ("flatten", nn.Sequential(nn.Flatten(), nn.Linear(channels * height * height, width))),
        ("middle", nn.Sequential(nn.GELU(), nn.LayerNorm(width), nn.Linear(width, width))),
        ("top", nn.Sequential(nn.GELU(), nn.LayerNorm(width), nn.Linear(width, width))),
    ]
    return layers, reduce


def reduce(activation: Activation) -> Tensor:
    """[B, D] for the heads, from what any of the layers gives."""
    return activation.hidden.flatten(1)
