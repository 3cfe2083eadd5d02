"""The job's end of its mailbox: a thread that tells the status and takes the commands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from scpl_ray.engine.cluster import beside_driver
from scpl_ray.jobs.mailbox import NAMESPACE, PREFIX, Mailbox

_WAIT_S = 0.5
_PATIENCE_S = 5.0


class Post:
    """Carries commands from the mailbox to the job, and its status back.

    Args:
        card: who the job is: at least its `id`.
        status: says what the job does now, in plain values.
        take: is given each command.
        tick: is called twice a second.
    """

    def __init__(
        self,
        card: dict[str, Any],
        status: Callable[[], dict[str, Any]],
        take: Callable[[dict[str, Any]], None],
        tick: Callable[[], None],
    ) -> None:
        self.mailbox: Any = (
            ray.remote(Mailbox)
            .options(
                name=PREFIX + card["id"],
                namespace=NAMESPACE,
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=beside_driver(),
            )
            .remote(card)
        )
        self._status, self._take, self._tick = status, take, tick
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="scpl-ray post", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._closing.is_set():
            try:
                told = self.mailbox.exchange.remote(self._status(), _WAIT_S)
                commands = ray.get(told, timeout=_PATIENCE_S)
            except Exception:
                # The mailbox is being restarted, or Ray ends; the next round tells which.
                self._closing.wait(_WAIT_S)
                commands = []
            for command in commands:
                self._take(command)
            if not self._closing.is_set():
                # What it asks of Ray may fail while a machine is being lost; the next tick tells.
                with contextlib.suppress(RayError):
                    self._tick()

    def tell(self) -> None:
        """Tells the status at once; for the last words of a job."""
        try:
            ray.get(self.mailbox.exchange.remote(self._status(), 0.0), timeout=_PATIENCE_S)
        except Exception:
            return

    def close(self) -> None:
        """Ends the thread and the mailbox."""
        self._closing.set()
        self._thread.join(_PATIENCE_S)
        ray.kill(self.mailbox)
