"""When the stages take snapshots, and which of these become checkpoints on storage. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from scpl_ray.config.running import FaultToleranceConfig
from scpl_ray.rounds import Rounds
from scpl_ray.schedule import Snapshot, Train, Work

# Of the run's time, by default: a snapshot that costs 20 ms comes every 4 s. What is lost with a
# process is replayed, seconds of work; a percent of all hours would be more than that.
_SHARE = 0.005
_LEAST_S, _MOST_S = 1.0, 30.0


@dataclass
class Marks:
    """Puts markers among the work.

    Attributes:
        config: how often.
        memory: whether snapshots in memory are of use to the engine.
        cost_s: what a snapshot costs a core, where it costs most; set by the engine.
        log_mib: inputs that are kept for a replay by the time that a marker could take effect;
            set by the engine.
        room_mib: how much of them the engine has room for.
        done: the newest step that is through; set by the engine.
        rounds: a marker comes between them; set by the engine.
        may_write: whether a checkpoint can be written now.
        clock: seconds.
    """

    config: FaultToleranceConfig
    memory: bool = True
    cost_s: float = 0.0
    log_mib: float = 0.0
    room_mib: float = math.inf
    done: int = -1
    rounds: Rounds = field(default_factory=Rounds)
    may_write: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    _paused_at: float | None = None
    _snapshot: tuple[float, int] = field(default=(0.0, 0))
    _checkpoint: tuple[float, int] = field(default=(0.0, 0))

    def among(self, work: Iterable[Work]) -> Iterator[Work]:
        """Yields the work with a marker before each training step where one is due.

        Work that comes in parts is one run: the time since the last marker goes on, less the time
        between the parts.
        """
        begun = False
        for item in work:
            if isinstance(item, Train) and self.config.enabled:
                if not begun:
                    begun = True
                    self._go_on(item.step)
                elif (
                    self.rounds.between(item.step) and (marker := self._due(item.step)) is not None
                ):
                    yield marker
            yield item
        if begun:
            self._paused_at = self.clock()

    def _go_on(self, step: int) -> None:
        now = self.clock()
        if self._paused_at is None:
            self._snapshot = self._checkpoint = (now, step)
            return
        pause = now - self._paused_at
        self._snapshot = (self._snapshot[0] + pause, self._snapshot[1])
        self._checkpoint = (self._checkpoint[0] + pause, self._checkpoint[1])

    @property
    def settled(self) -> bool:
        """Whether it is known how often snapshots in memory come."""
        ft = self.config
        given = ft.snapshot_every_s is not None or ft.snapshot_every_steps is not None
        return given or not (ft.enabled and self.memory) or self.cost_s > 0

    def every_s(self) -> float:
        """Seconds between snapshots in memory."""
        if self.config.snapshot_every_s is not None:
            return self.config.snapshot_every_s
        return min(_MOST_S, max(_LEAST_S, self.cost_s / _SHARE))

    def _due(self, step: int) -> Snapshot | None:
        now, config = self.clock(), self.config
        durable = self.may_write() and (
            _since(self._checkpoint[0], now, config.checkpoint_every_s)
            or _since(self._checkpoint[1], step, config.checkpoint_every_steps)
        )
        if config.snapshot_every_steps is not None:
            due = _since(self._snapshot[1], step, config.snapshot_every_steps)
        else:
            # Until the first is through nobody knows what one costs: they would come each second.
            due = self.settled or self.done >= self._snapshot[1]
            due = due and _since(self._snapshot[0], now, self.every_s())
        # A marker frees the log when it is through, not before: more of them would only cut calls
        # of many batches to pieces. Where a window alone is more than the log may hold, not every
        # step shall be marked.
        last = self._snapshot[1]
        most = math.inf if config.log_mib == "auto" else config.log_mib
        full = self.log_mib > min(most, self.room_mib)
        full = full and self.done >= last and step - last >= 4
        if not (durable or (self.memory and (due or full))):
            return None
        self._snapshot = (now, step)
        if durable:
            self._checkpoint = (now, step)
        return Snapshot(step, durable)


def _since(then: float, now: float, every: float | None) -> bool:
    return every is not None and now - then >= every
