"""The local objective of one stage, as its config's `method` says. See `objectives`."""

from __future__ import annotations

import inspect

from scpl_ray.config.schema import Config
from scpl_ray.errors import ConfigError
from scpl_ray.objectives import is_own, objective_class
from scpl_ray.objectives.base import LocalLoss, Objective, Place

__all__ = ["LocalLoss", "LocalObjective", "check_options", "has_exit", "why_fixed"]


def has_exit(method: str, stage: int, num_stages: int) -> bool:
    """Whether a stage (from 1) answers for itself: every one, or the last, by the method."""
    return objective_class(method).exits == "every" or stage == num_stages


def is_end_to_end(method: str) -> bool:
    """Whether its stages need the gradient of the stage behind."""
    return objective_class(method).end_to_end


def why_fixed(method: str) -> str:
    """Why stages can neither join nor leave with a method; empty if they can."""
    if not is_end_to_end(method):
        return ""
    return (
        f"method {method!r} trains end to end: its layers need the gradient of the stage behind, "
        "so stages can neither join nor leave"
    )


def check_options(config: Config) -> None:
    """Checks that a class of one's own takes `local.options`.

    Raises:
        ConfigError: one that cannot be imported, or does not take them.
    """
    own = objective_class(config.method)
    if not is_own(config.method):
        return
    try:
        inspect.signature(own).bind(config, None, **config.local.options)
    except TypeError as error:
        name = own.__name__
        raise ConfigError(
            f"method: {config.method!r} is built as {name}(config, place, **local.options) with "
            f"options {config.local.options!r}: {error}"
        ) from error


def LocalObjective(
    config: Config,
    features: int,
    classes: int,
    style: str,
    with_exit: bool,
    place: str,
    last: bool = True,
    channels: int | None = None,
) -> Objective:
    """Builds the heads of a stage and its loss.

    Args:
        config: `method`, `seed` and `local` are read.
        features: width D of r_k.
        classes: number of classes.
        style: "text" or "image".
        with_exit: whether the stage has an exit head.
        place: name of the stage's last layer; the heads' initial weights depend on it.
        last: whether it is the network's last stage.
        channels: C where the stage gives feature maps [B, C, H, W] and the method takes them.
    """
    where = Place(place, features, classes, style, with_exit, last, channels)
    options = config.local.options if is_own(config.method) else {}
    return objective_class(config.method)(config, where, **options)
