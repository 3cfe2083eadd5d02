"""Local objectives by the name that `method` gives them. No torch: configs are read with it.

A new one is a file here, or anywhere else, with a class that derives from `base.Objective`, and a
line in METHODS; or no line, and `method: module:Class`.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

from scpl_ray.errors import ConfigError, nearest
from scpl_ray.own_code import import_named

if TYPE_CHECKING:
    from scpl_ray.objectives.base import Objective

METHODS = {
    "bp": "backprop:Backprop",
    "scpl": "contrastive:Scpl",
    "dascpl": "contrastive:Dascpl",
    "ee": "early_exit:EarlyExit",
    "bp_p": "detached_exits:DetachedExits",
    "al": "associated:Associated",
    "sim_pred": "similarity:SimilarityPrediction",
    "deinforeg": "deinforeg:DeInfoReg",
}
OWN = r"^[^:\s]+:[^:\s]+$"


def problem(method: object) -> str:
    """What is wrong with the name of a method; empty if nothing is."""
    if isinstance(method, str) and (method in METHODS or re.match(OWN, method)):
        return ""
    near = nearest(str(method), METHODS)
    return f"allowed: {', '.join(METHODS)}, or module:Class of your own.{near}"


def is_own(method: str) -> bool:
    """Whether a method is a class of one's own."""
    return method not in METHODS


def objective_class(method: str) -> type[Objective]:
    """Imports the class behind a method.

    Raises:
        ConfigError: a class of one's own that cannot be imported, or is no `Objective`.
    """
    from scpl_ray.objectives.base import Objective

    if method in METHODS:
        module, _, name = METHODS[method].partition(":")
        found: type[Objective] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return found
    own = import_named("method", method, "class", "my_objective:Mine")
    if not (isinstance(own, type) and issubclass(own, Objective)):
        raise ConfigError(
            f"method: {method!r} is no local objective; derive it from "
            "scpl_ray.objectives.base.Objective"
        )
    return own
