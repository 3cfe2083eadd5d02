"""How many batches go into one call, by what a step costs. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from scpl_ray.config.running import PipelineConfig
from scpl_ray.stage_facts import StageStats

# A call costs all processes together some 5 ms of CPU time for each stage, and a stage a few ms of
# waiting for its next: one of this length bears that. Growth and snapshots wait for the calls under
# way.
_LEAST_S = 1.0
# Where a core has to bear the calls of several stages they are longer, but no more than so many
# times: a command has to wait for them.
_MOST_CROWD = 2.0
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
        at_once: stages that have a core at the same time; set by the engine.
    """

    config: PipelineConfig
    single: bool = False
    most_mib: float = MOST_MIB
    room_mib: float = math.inf
    at_once: float = math.inf
    _stages: int = 1
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
        self._stages = stages
        self._seconds.append(slowest)
        # Twice: what is kept for a replay, and what comes until a marker has freed it.
        coming = self.config.coming(stages, True, self.at_once)
        self._kept_mib = max(self._kept_mib, 2 * coming * given)

    @property
    def crowd(self) -> float:
        """Stages for each core, or for each that one stage's threads take; 1 at least."""
        return max(1.0, self._stages / self.at_once)

    def sharing(self, stages: int) -> float:
        """How many of so many stages compute on one core at the same time, at most."""
        computing = min(stages, self.config.window(stages, True, self.at_once))
        return max(1.0, computing / self.at_once)

    def now(self) -> int:
        """Batches that the next call takes: a power of two, unless the config says a number.

        As many as make the slowest stage's call long against what the call itself costs; not so
        many that what travels and is kept fills the object store.

        Stages that share cores take longer for a step than they would alone, by as many as compute
        at once, and the pipeline gets on by one step in the time that all stages need of the cores.
        """
        if self.single:
            return 1
        if self.config.batches_per_call != "auto":
            return self.config.batches_per_call
        if len(self._seconds) < _SEEN:
            return 1
        alone = sorted(self._seconds)[_SEEN // 2] / self.sharing(self._stages)
        call_s = _LEAST_S * min(self.crowd, _MOST_CROWD)
        wanted = round(math.log2(min(_MOST, call_s / max(alone * self.crowd, 1e-4))))
        fit = min(self.most_mib / max(self._mib, 1e-6), self.room_mib / max(self._kept_mib, 1e-6))
        return 2 ** max(0, min(wanted, math.floor(math.log2(max(fit, 1.0)))))
