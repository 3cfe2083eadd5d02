"""How many batches go into one call, by what a step costs. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from scpl_ray.config.running import PipelineConfig
from scpl_ray.stage_facts import StageStats

# A call costs all processes together some 10 ms of CPU time, and a stage a few ms of waiting for
# its next: one of this length bears that. Growth and snapshots wait for the calls under way.
_LEAST_S = 1.0
_MOST, MOST_MIB = 256, 32.0
_SEEN = 16


@dataclass
class CallSize:
    """Watches the steps.

    Attributes:
        config: `batches_per_call` is read.
        single: a call takes one batch whatever a step costs.
        most_mib: that travels in one call.
        room_mib: for what all stages are given in all calls that are under way.
    """

    config: PipelineConfig
    single: bool = False
    most_mib: float = MOST_MIB
    room_mib: float = math.inf
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SEEN))
    _mib: float = 0.0
    _kept_mib: float = 0.0

    def saw(self, stats: Iterable[StageStats]) -> None:
        """A training step is done."""
        slowest = given = 0.0
        stages = 0
        for s in stats:
            stages, given = stages + 1, given + s.given_mib
            slowest = max(slowest, s.receive_s + s.forward_s + s.send_s + s.update_s)
            self._mib = max(self._mib, s.given_mib, s.handed_mib)
        self._seconds.append(slowest)
        # Twice: what is kept for a replay, and what comes until a marker has freed it.
        self._kept_mib = max(self._kept_mib, 2 * self.config.coming(stages, True) * given)

    def now(self) -> int:
        """Batches that the next call takes: a power of two, unless the config says a number.

        As many as make the slowest stage's call long against what the call itself costs; not so
        many that what travels and is kept fills the object store.
        """
        if self.single:
            return 1
        if self.config.batches_per_call != "auto":
            return self.config.batches_per_call
        if len(self._seconds) < _SEEN:
            return 1
        step = sorted(self._seconds)[_SEEN // 2]
        wanted = round(math.log2(min(_MOST, _LEAST_S / max(step, 1e-4))))
        fit = min(self.most_mib / max(self._mib, 1e-6), self.room_mib / max(self._kept_mib, 1e-6))
        return 2 ** max(0, min(wanted, math.floor(math.log2(max(fit, 1.0)))))
