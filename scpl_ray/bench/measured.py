"""What a measurement of the pipeline found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Turn:
    """One turn of the streamed pipeline; times in milliseconds a step.

    Attributes:
        step_ms: in steady state.
        fill_ms: from the first batch sent to its end at the last stage.
        parts_ms: for each stage, where its time goes, by the names in PARTS.
        compute_ms: CPU time of each stage's forward, loss, backward and update.
        cpu_ms: CPU time of every process.
        moved_mib: activations and batches that the stages were given.
        per_call: batches that travelled in one call at the end.
    """

    step_ms: float
    fill_ms: float
    parts_ms: list[dict[str, float]]
    compute_ms: list[float]
    cpu_ms: dict[str, float]
    moved_mib: float
    per_call: int

    @property
    def overhead_ms(self) -> float:
        """CPU time outside the stages' compute, per stage: calls, transport, data, Ray."""
        return (sum(self.cpu_ms.values()) - sum(self.compute_ms)) / len(self.compute_ms)


@dataclass(frozen=True)
class Measured:
    """One benchmark.

    Attributes:
        cores: that this machine gives.
        threads: of each stage.
        alone_ms: each stage's forward, loss, backward and update without Ray, one at a time:
            median over the turns.
        limits_ms: of each turn: the least that a step can cost; the slowest stage alone, or where
            the stages share cores, all of them together / cores.
        efficiencies: limit / step of each turn.
        beside_ms: each stage's compute without Ray, all stages at once: median over the turns.
        machine_limits_ms: of each turn: the least that a step can cost where stages compute
            at once on this machine; as `limits_ms`, of what they take side by side.
        grown_mib: what each stage's process had more of its own, at most, than before its stage.
        turns: what was measured.
    """

    cores: int
    threads: int
    alone_ms: list[float]
    limits_ms: list[float]
    efficiencies: list[float]
    beside_ms: list[float]
    machine_limits_ms: list[float]
    grown_mib: list[float]
    turns: list[Turn] = field(repr=False)

    @property
    def limit_ms(self) -> float:
        """Median of the turns."""
        return statistics.median(self.limits_ms)

    @property
    def step_ms(self) -> float:
        """Median of the turns."""
        return statistics.median(turn.step_ms for turn in self.turns)

    @property
    def efficiency(self) -> float:
        """Median of the turns' own ratios: both sides of each saw the same machine."""
        return statistics.median(self.efficiencies)

    @property
    def of_machine(self) -> float:
        """The least that this machine allows stages that compute at once / step, likewise."""
        both = zip(self.machine_limits_ms, self.turns, strict=True)
        return statistics.median(least / turn.step_ms for least, turn in both)
