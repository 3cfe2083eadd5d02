"""Networks as ordered lists of named layers.

For models of your own: `LayeredModel`, `LayerSpec`, `StreamLayer`, `Activation`.
"""

from scpl_ray.models.activation import Activation
from scpl_ray.models.layers import (
    LayeredModel,
    LayerSpec,
    StreamLayer,
    flatten,
    mean_over_tokens,
    pooled,
)
from scpl_ray.models.registry import build_model

__all__ = [
    "Activation",
    "LayerSpec",
    "LayeredModel",
    "StreamLayer",
    "build_model",
    "flatten",
    "mean_over_tokens",
    "pooled",
]
