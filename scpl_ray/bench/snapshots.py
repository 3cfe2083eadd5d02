"""What snapshots and checkpoints cost: throughput with them against without, in turns."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scpl_ray import schedule
from scpl_ray.config import Config
from scpl_ray.engine.marks import Marks
from scpl_ray.engine.pipeline import RayEngine
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.safekeeping import Safekeeping
from scpl_ray.stage import plan_stages

_WARM_UP = 10


@dataclass(frozen=True)
class SnapshotCost:
    """One benchmark.

    Attributes:
        off: steps a second of each turn without snapshots.
        on: the same with them.
        ratios: of neighbouring turns, on / off.
        ratio: their median.
        snapshots: of all turns, in memory.
        checkpoints: of these, written to storage.
        snapshot_ms: what one costs the stage to which it costs most, median.
        write_s: what the last write took, beside the training.
        share: of the stages' time in the turns with them, by their own clocks.
    """

    off: list[float]
    on: list[float]
    ratios: list[float]
    ratio: float
    snapshots: int
    checkpoints: int
    snapshot_ms: float
    write_s: float
    share: float


class _Turns:
    def __init__(self, config: Config, engine: RayEngine, safe: Safekeeping) -> None:
        self.config, self.engine, self.safe = config, engine, safe
        self.step, self.snapshots, self.checkpoints = 0, 0, 0
        self.costs: list[float] = []
        self.busy_on_s = self.snapshot_s = 0.0

    def run(self, seconds: float, on: bool) -> float:
        """Trains for a time; returns steps a second."""
        ft = self.config.fault_tolerance
        if not on:
            ft = ft.model_copy(update={"enabled": False})
        self.engine.chain.keeps = on
        for member in self.engine.members.live:
            member.go_on_after(member.sent)
        marks = self.engine.marks = Marks(ft, room_mib=self.engine.marks.room_mib)
        marks.may_write = lambda: not self.safe.writer.busy
        for _ in self.engine.run(self._work(until=time.monotonic() + 1e9, steps=_WARM_UP)):
            pass
        begun, first = time.monotonic(), self.step
        for done in self.engine.run(self._work(until=begun + seconds)):
            for stats in done.stats:
                self.busy_on_s += on * (stats.forward_s + stats.update_s)
                self.snapshot_s += stats.snapshot_s
            if stats_of_snapshot := [s.snapshot_s for s in done.stats if s.snapshot_s]:
                self.snapshots += 1
                self.costs.append(max(stats_of_snapshot))
            if done.parts is not None:
                self.checkpoints += 1
                info, threads = self.engine.ready.info, self.engine.threads
                self.safe.keep(done.parts, self.config, info, threads, {})
        took = time.monotonic() - begun
        self.safe.wait()
        return (self.step - first) / took

    def _work(self, until: float, steps: int = 10**9) -> Iterator[schedule.Work]:
        for _ in range(steps):
            if time.monotonic() > until:
                return
            yield schedule.Train(self.step, 0)
            self.step += 1


def measure(config: Config, seconds: float, repeats: int) -> SnapshotCost:
    """Trains in turns without and with snapshots, in the same processes.

    Args:
        config: the job; its `fault_tolerance` says how often.
        seconds: of each turn.
        repeats: turns of each kind.
    """
    with tempfile.TemporaryDirectory(prefix="scpl-ray-bench-") as folder:
        safe = Safekeeping(config, Path(folder), lambda line: None)
        engine = RayEngine(config)
        try:
            ready = engine.prepare_data()
            names = build_model(config, ready.info).names
            engine.start(plan_stages(config, partition(names, config.stages)), None)
            turns = _Turns(config, engine, safe)
            off, on = [], []
            for _ in range(repeats):
                off.append(turns.run(seconds, on=False))
                on.append(turns.run(seconds, on=True))
            safe.wait()
        finally:
            engine.close()
        ratios = [b / a for a, b in zip(off, on, strict=True)]
        return SnapshotCost(
            off,
            on,
            ratios,
            statistics.median(ratios),
            turns.snapshots,
            turns.checkpoints,
            1000 * statistics.median(turns.costs or [0.0]),
            safe.writer.seconds,
            turns.snapshot_s / max(1e-9, turns.busy_on_s + turns.snapshot_s),
        )
