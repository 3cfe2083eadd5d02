"""Functions and classes of one's own that a config names: `module:name`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpl_ray.errors import ConfigError, unknown


def import_named(key: str, name: str, what: str, example: str) -> Callable[..., Any]:
    """Imports `module:name`, with the current folder on the path.

    Args:
        key: of the config, for messages.
        name: what it says.
        what: "function" or "class".
        example: of a name.

    Raises:
        ConfigError: naming the key and what could not be found.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{key}: {name!r}: write module:{what}, e.g. {example}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{key}: {name!r}: cannot import {module_name!r} "
            f"({type(error).__name__}: {error}); it must be "
            "installed or lie in the current folder"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [n for n in vars(module) if not n.startswith("_") and callable(vars(module)[n])]
        raise ConfigError(f"{key}: {unknown(what, attribute, public)}")
    return found
