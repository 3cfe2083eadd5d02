"""From the config's `callbacks` to callbacks, made before anything else starts."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from typing import Any

from scpl_ray.callbacks.base import Callback
from scpl_ray.errors import ConfigError, ScplRayError, nearest, unknown
from scpl_ray.own_code import import_named

# Name in the config -> its class, the package that it needs.
KNOWN = {
    "mlflow": ("scpl_ray.callbacks.to_mlflow:MlflowCallback", "mlflow"),
    "wandb": ("scpl_ray.callbacks.to_wandb:WandbCallback", "wandb"),
}


def entries(given: Sequence[str | dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of each entry: `mlflow`, or `{mlflow: {experiment: x}}`."""
    found: list[tuple[str, dict[str, Any]]] = []
    for entry in given:
        if isinstance(entry, str):
            found.append((entry, {}))
        else:
            ((name, options),) = entry.items()
            found.append((name, dict(options or {})))
    return found


def callback_classes(
    given: Sequence[str | dict[str, Any]],
) -> list[tuple[str, type[Callback], dict[str, Any]]]:
    """Finds the class of each entry, and checks its options.

    Raises:
        ConfigError: an unknown name, a package that is not installed, options that do not fit.
    """
    found = []
    for name, options in entries(given):
        kind = _class_of(name)
        known = inspect.signature(kind).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for option in options:
            if option not in known and not free:
                takes = unknown("option", option, list(known)) if known else "it takes no options"
                raise ConfigError(f"callbacks: {name}: {option}: {takes}")
        try:
            inspect.signature(kind).bind(**options)
        except TypeError as error:
            raise ConfigError(f"callbacks: {name}: {error}") from None
        found.append((name, kind, options))
    return found


def _class_of(name: str) -> type[Callback]:
    if name in KNOWN:
        place, package = KNOWN[name]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"callbacks: {name!r} needs the package {package}, which is not installed: "
                f"pip install scpl-ray[{name}], or leave it out"
            )
        name = place
    elif name == "tensorboard":
        raise ConfigError("callbacks: 'tensorboard' is not a callback: set output.tensorboard")
    elif ":" not in name:
        raise ConfigError(
            f"callbacks: unknown callback {name!r}; allowed: {', '.join(KNOWN)}, or module:Class "
            f"of your own.{nearest(name, KNOWN)}"
        )
    found = import_named("callbacks", name, "class", "my_module:MyCallback")
    if not (isinstance(found, type) and issubclass(found, Callback)):
        raise ConfigError(
            f"callbacks: {name!r} is not a class derived from scpl_ray.callbacks.Callback"
        )
    return found


def make_callbacks(given: Sequence[str | dict[str, Any]]) -> list[tuple[str, Callback]]:
    """Makes the callbacks of a config, with their names.

    Raises:
        ConfigError: one that cannot be made.
    """
    made = []
    for name, kind, options in callback_classes(given):
        try:
            made.append((name, kind(**options)))
        except ScplRayError:
            raise
        except Exception as error:
            raise ConfigError(
                f"callbacks: {name!r} cannot be made: {type(error).__name__}: {error}"
            ) from error
    return made
