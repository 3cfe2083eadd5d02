"""Layers beyond those of the config: what the next stage of a growing network is made of. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from scpl_ray.config.schema import Config, GrownLayers, ModelConfig
from scpl_ray.errors import ConfigError, unknown

# What may differ in a layer that joins; its input is fixed by the layer before it.
CHANGEABLE = {
    "transformer": ("heads", "ffn", "dropout"),
    "lstm": ("width", "dropout"),
    "convnet": ("channels", "dropout"),
    "vgg8": ("channels",),
    "resnet18": ("channels",),
    "vanillacnn": ("channels",),
}
_FACTORY = ("factory", "options")


def per_layer(config: ModelConfig, base: int) -> list[ModelConfig]:
    """The config of each repeated layer: `base` times the model's own, then the joined ones."""
    configs = [config] * base
    for joined in config.grown:
        if "factory" not in joined.change:
            configs += [config.model_copy(update=joined.change)] * joined.layers
    return configs


def extend(config: Config, layers: int = 1, change: dict[str, Any] | None = None) -> Config:
    """Returns the config of a network with more layers.

    Args:
        config: of the network so far.
        layers: how many join.
        change: keys of `model` that differ in them.

    Raises:
        ConfigError: a key that cannot differ, or a value that is not accepted.
    """
    change, kind = dict(change or {}), config.model.kind
    allowed = (*(() if config.model.factory else CHANGEABLE.get(kind, ())), *_FACTORY)
    for key in change:
        if key not in allowed:
            raise ConfigError(f"layer config: {unknown('key', key, allowed)}")
    if "options" in change and "factory" not in change:
        raise ConfigError("layer config: options: they belong to a factory; name it too")
    if any("factory" in joined.change for joined in config.model.grown) and not (
        config.model.factory or "factory" in change
    ):
        raise ConfigError(
            f"layer config: the last layers came from a factory, and the pattern of {kind!r} does "
            "not go on behind them; name a factory again (--layer-config factory=module:function)"
        )
    try:
        checked = ModelConfig.model_validate(config.model.model_dump() | change)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"layer config: {where}: {first['input']!r} is not accepted: {first['msg']}"
        ) from None
    change = {key: getattr(checked, key) for key in change}
    width, heads = config.model.width, checked.heads
    if kind == "transformer" and not config.model.factory and width % heads:
        raise ConfigError(
            f"layer config: heads: {heads} does not divide model.width: {width}; choose a divisor"
        )
    grown = [*config.model.grown, GrownLayers(layers=layers, change=change)]
    return config.model_copy(update={"model": config.model.model_copy(update={"grown": grown})})
