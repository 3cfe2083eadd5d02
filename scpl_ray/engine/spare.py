"""A process that has imported everything and waits for a stage to die."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from scpl_ray.engine.rest import wake

_START_S = 10.0


class Spare:
    """Holds at most one started actor without a stage.

    A new process costs seconds, most of them imports; this one has them behind it.

    Args:
        make: starts an actor.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._actor: Any = None
        self._ready: Any = None
        self.wanted = False

    def keep(self) -> None:
        """Starts one, where one is wanted and there is none."""
        if self.wanted and self._actor is None:
            self._actor = self._make()
            self._ready = self._actor.stand_by.remote()
            self._actor.rest.remote()

    def settle(self, timeout_s: float) -> None:
        """Waits until the one that is starting is ready: a start takes a core for seconds."""
        if self._ready is not None:
            ray.wait([self._ready], timeout=timeout_s)

    def take(self, num_cpus: float) -> tuple[Any, PlacementGroup | None] | None:
        """Hands the actor over, where it lives and is ready.

        Args:
            num_cpus: cores that the dead stage held.

        Returns:
            The actor, and a placement group that holds these cores for it; None: there is none.
        """
        actor, ready = self._actor, self._ready
        self._actor = self._ready = None
        if actor is None:
            return None
        try:
            # Asked anew: it may have died since. One on its way is nearer than a new process.
            until = time.monotonic() + _START_S
            wake(*ray.get(ready, timeout=_START_S))
            ray.get(actor.ready.remote(), timeout=until - time.monotonic())
        except Exception:
            ray.kill(actor)
            return None
        return actor, placement_group([{"CPU": num_cpus}]) if num_cpus else None

    def end(self) -> None:
        """Ends it."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = self._ready = None
