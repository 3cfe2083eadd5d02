"""From `model.kind` or `model.factory` to a `LayeredModel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scpl_ray.config.schema import Config, ModelConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import ConfigError, unknown
from scpl_ray.models import huggingface, resnet, text, vision
from scpl_ray.models.activation import Activation
from scpl_ray.models.layers import LayeredModel, LayerSpec, apply_layer, flatten
from scpl_ray.objectives import objective_class
from scpl_ray.own_code import import_named
from scpl_ray.rng import seeded

_TEXT = {"transformer": text.transformer, "lstm": text.lstm}
_IMAGE = {
    "convnet": vision.convnet,
    "vgg8": vision.vgg8,
    "resnet18": resnet.resnet18,
    "vanillacnn": vision.vanillacnn,
}
KINDS = (*_TEXT, *_IMAGE, "huggingface")


def build_model(
    config: Config, data: DataInfo, vectors: text.WordVectors | None = None
) -> LayeredModel:
    """Describes the network of a config.

    Args:
        config: `model`, `method` and `local.pool` are read.
        data: what the layers must fit.
        vectors: word vectors for the embedding.

    Returns:
        The ordered layers, every one with its number of features.

    Raises:
        ConfigError: an unknown kind, one that does not fit the data, or a bad factory.
    """
    if config.model.factory:
        own = _from_factory(config, data, config.model.factory, config.model.options)
        return _finished(_joined(own, config, data), config, data)
    kind = config.model.kind
    takes = fitting_info(config.model).kind
    if takes != data.kind:
        fitting = ", ".join([*(_TEXT if data.kind == "text" else _IMAGE), "huggingface"])
        raise ConfigError(
            f"model.kind: {kind!r} takes {takes}, but data.source {data.name!r} gives "
            f"{data.kind}; allowed with it: {fitting}"
        )
    if kind == "huggingface":
        model = huggingface.huggingface(config.model, data)
    elif kind in _IMAGE:
        model = _IMAGE[kind](config.model, data, config.local.pool)
    else:
        model = _TEXT[kind](config.model, data, vectors)
    return _finished(_joined(model, config, data), config, data)


def fitting_info(model: ModelConfig) -> DataInfo:
    """Facts of data that a network of a kind would take, for what only asks for its layers.

    Raises:
        ConfigError: an unknown kind.
    """
    if model.kind not in KINDS:
        raise ConfigError(unknown("model.kind", model.kind, KINDS))
    if model.kind == "huggingface":
        return huggingface.fitting_info(model)
    kind = "text" if model.kind in _TEXT else "image"
    return DataInfo("", "", kind, (), {}, image_shape=(1, 32, 32))


def _joined(model: LayeredModel, config: Config, data: DataInfo) -> LayeredModel:
    """Adds the layers of `model.grown` that come from a factory, or from a factory's pattern."""
    layers = list(model.layers)
    extra = 0
    for joined in config.model.grown:
        if "factory" in joined.change:
            name, options = joined.change["factory"], joined.change.get("options", {})
            layers += _from_factory(config, data, name, options).layers
        elif config.model.factory:
            if model.more is None:
                raise ConfigError(
                    f"model.factory: {config.model.factory!r} does not say how its network goes "
                    "on: return a LayeredModel with `more`, or name a factory of the new layers "
                    "(--layer-config factory=module:function)"
                )
            layers += [model.more(extra + i) for i in range(1, joined.layers + 1)]
            extra += joined.layers
    try:
        return LayeredModel(tuple(layers), model.style, model.more)
    except ValueError as error:
        raise ConfigError(f"model.grown: {error}") from error


def _finished(model: LayeredModel, config: Config, data: DataInfo) -> LayeredModel:
    """Fills in the features of each layer where they are not given, and channels if asked for."""
    maps = data.kind == "image" and objective_class(config.method).takes_maps
    if all(layer.features and (layer.channels or not maps) for layer in model.layers):
        return model
    return _with_features(model, config.seed, data)


def import_factory(name: str) -> Callable[..., object]:
    """Imports `module:function`, with the current folder on the path.

    Raises:
        ConfigError: naming model.factory and what could not be found.
    """
    return import_named("model.factory", name, "function", "my_model:build")


def _from_factory(
    config: Config, data: DataInfo, name: str, options: dict[str, Any]
) -> LayeredModel:
    function = import_factory(name)
    with seeded(config.seed, "init", "factory"):
        try:
            made = function(data, **options)
        except TypeError as error:
            raise ConfigError(
                f"model.factory: {name!r} was called as build(data, "
                f"**model.options) with options {options!r}: {error}"
            ) from error
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"model.factory: {name!r} failed: {type(error).__name__}: {error}"
            ) from error
    return _as_model(made, name, data)


def _as_model(made: object, name: str, data: DataInfo) -> LayeredModel:
    if isinstance(made, LayeredModel):
        return made
    layers: Any
    reduce: Any
    layers, reduce = made if isinstance(made, tuple) and len(made) == 2 else (made, flatten)
    pairs_fit = isinstance(layers, list | tuple) and all(
        isinstance(p, tuple)
        and len(p) == 2
        and isinstance(p[0], str)
        and (isinstance(p[1], nn.Module) or callable(p[1]))
        for p in layers
    )
    if not pairs_fit or not layers or not callable(reduce):
        raise ConfigError(
            f"model.factory: {name!r} returned {type(made).__name__}; it must return a "
            "LayeredModel, or ([(name, nn.Module), ...], reduce) with reduce: Activation -> [B, D]"
        )
    try:
        return LayeredModel(tuple(LayerSpec(n, m, reduce) for n, m in layers), style=data.kind)
    except ValueError as error:
        raise ConfigError(f"model.factory: {name!r}: {error}") from error


def sample_input(data: DataInfo, size: int = 2) -> Activation:
    """Makes a minimal a_0 of the right shape and type."""
    if data.kind == "text":
        ids = torch.ones(size, 2, dtype=torch.int64)
        return Activation(ids, ids.bool())
    return Activation(torch.zeros(size, *data.image_shape))


def _with_features(model: LayeredModel, seed: int, data: DataInfo) -> LayeredModel:
    activation, layers = sample_input(data), []
    for spec in model.layers:
        try:
            module = spec.make(seed).eval()
            with torch.no_grad():
                activation = apply_layer(module, activation)
                features: Tensor = spec.reduce(activation)
        except Exception as error:
            raise ConfigError(
                f"model.factory: layer {spec.name!r} fails on a sample input "
                f"({activation.shapes()}): {type(error).__name__}: {error}"
            ) from error
        if features.dim() != 2:
            raise ConfigError(
                f"model.factory: reduce gives shape {list(features.shape)} after layer "
                f"{spec.name!r}; it must give [B, D]"
            )
        hidden = activation.hidden
        channels = hidden.shape[1] if hidden.dim() == 4 else None
        layers.append(LayerSpec(spec.name, spec.build, spec.reduce, features.shape[1], channels))
    return LayeredModel(tuple(layers), model.style, model.more)
