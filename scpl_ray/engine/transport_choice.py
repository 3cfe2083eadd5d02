"""Which transport a run takes: what the config asks, or the direct one where it is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scpl_ray.config.schema import Config
from scpl_ray.engine.transport import missing

STORE, DIRECT, AUTO = "object_store", "nixl", "auto"


@dataclass(frozen=True)
class Wish:
    """What the stages are built with.

    Attributes:
        transport: object_store, nixl (a stage without it is an error), or auto (it says so).
        why: why the object store is taken where the config leaves it open.
    """

    transport: str
    why: str = ""


def choose(config: Config, device: str, lacking: Callable[[], str]) -> Wish:
    """Decides as far as this process can: the stages know what they have.

    Args:
        config: `pipeline.transport` and `fault_tolerance` are read.
        device: of the stages.
        lacking: why this machine cannot do it, or nothing; asked only if that matters. Here is the
            process of the stages that have left, which reads too.

    Raises:
        ConfigError: nixl is demanded, and is not here.
    """
    asked = config.pipeline.transport
    if asked == DIRECT and (why := lacking()):
        raise missing("this machine", why)
    if asked != AUTO:
        return Wish(asked)
    if device == "cpu":
        return Wish(STORE, "the stages are on CPU")
    if config.fault_tolerance.enabled:
        return Wish(STORE, "fault_tolerance keeps what a replay needs in it")
    if why := lacking():
        return Wish(STORE, f"no direct transport here: {why}")
    return Wish(AUTO)


def settle(wish: Wish, have: Mapping[Any, str]) -> tuple[str, str]:
    """Decides once the stages are there: directly only if all of them can.

    Args:
        wish: what they were built with.
        have: what each process opened, by the number of its stage.

    Returns:
        The transport, and the decision in one line for the user.
    """
    without = [number for number, name in have.items() if name != DIRECT]
    if wish.transport == STORE or without:
        why = wish.why
        if wish.transport == AUTO:
            why = f"no direct transport in stages {', '.join(map(str, without))}"
        return STORE, "activations go through the object store" + (f" ({why})" if why else "")
    return DIRECT, "activations go directly from stage to stage (nixl)"
