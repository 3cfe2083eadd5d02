"""How many faults a run survives. Pure."""

from __future__ import annotations

from collections import Counter

from scpl_ray.config.running import FaultToleranceConfig
from scpl_ray.engine.base import Failure


class Budget:
    """Counts what has failed.

    Args:
        config: the limits.
    """

    def __init__(self, config: FaultToleranceConfig) -> None:
        self.config = config
        self.failures: list[Failure] = []
        self._of: Counter[str] = Counter()
        self._at: Counter[tuple[str, int, int]] = Counter()

    def count(self, who: str, step: int, cause: str, place: int = -1) -> str:
        """Takes in one failure.

        Args:
            who: what died.
            step: the training step at which it did; -1 where that is not known.
            cause: why.
            place: number of the work at which it did, where there is no step (-1: the start).

        Returns:
            Why the run ends, or nothing if it goes on.
        """
        config = self.config
        self.failures.append(Failure(who, step, cause, 0.0))
        self._of[who] += 1
        at = (who, step, -1 if step >= 0 else place)
        self._at[at] += 1
        if not config.enabled:
            return "fault_tolerance.enabled is false, so nothing was kept to go on from"
        if self._at[at] > config.max_failures_per_batch:
            times, where = self._at[at], "this batch" if step >= 0 else "the same point"
            return (
                f"it died {times} times at {where} "
                "(fault_tolerance.max_failures_per_batch = "
                f"{config.max_failures_per_batch})"
            )
        limit = config.max_failures_per_stage
        if limit is not None and self._of[who] > limit:
            return (
                f"it died {self._of[who]} times (fault_tolerance.max_failures_per_stage = {limit})"
            )
        limit = config.max_failures
        if limit is not None and len(self.failures) > limit:
            return (
                f"{len(self.failures)} processes of this run have died "
                f"(fault_tolerance.max_failures = {limit})"
            )
        return ""

    def took(self, since: int, seconds: float) -> None:
        """The failures from the position `since` on were mended within so many seconds."""
        for i in range(since, len(self.failures)):
            old = self.failures[i]
            self.failures[i] = Failure(old.who, old.step, old.cause, round(seconds, 3))
