"""The pipeline against end-to-end backpropagation, in turns, on the same cores."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from rich.table import Table

from scpl_ray.bench.baselines import baseline
from scpl_ray.bench.kinds import KINDS, PIPELINED, check_kind, micro_batches
from scpl_ray.bench.pipeline import Streaming
from scpl_ray.config import Config
from scpl_ray.engine.pipeline import RayEngine
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages


@dataclass(frozen=True)
class Compared:
    """What each way to train costs.

    Attributes:
        around_ms: the pipeline's step before and after each baseline: their mean, of each turn.
        steps_ms: a step of each baseline, of each turn.
        micro_batches: of each baseline, the number that was best.
        tried_ms: of the pipelined ones, a step by the number of micro-batches.
        peak_mib: of each baseline, the most that one of its processes grew by.
        ours_mib: what the process of each stage grew by, at most.
    """

    around_ms: dict[str, list[float]]
    steps_ms: dict[str, list[float]]
    micro_batches: dict[str, int]
    tried_ms: dict[str, dict[int, float]]
    peak_mib: dict[str, float]
    ours_mib: list[float]

    def ratios(self, kind: str) -> list[float]:
        """Baseline / ours, of each turn."""
        return [b / o for b, o in zip(self.steps_ms[kind], self.around_ms[kind], strict=True)]

    @property
    def ours_ms(self) -> list[float]:
        """The pipeline's step, of each turn."""
        return [statistics.fmean(one) for one in zip(*self.around_ms.values(), strict=True)]


def compare(config: Config, steps: int, repeats: int) -> Compared:
    """Runs the pipeline before and after each baseline, so that both see the same machine.

    Args:
        config: the job.
        steps: timed steps of each.
        repeats: turns.

    Raises:
        ConfigError: a baseline cannot train this network.
    """
    engine = RayEngine(config)
    around: dict[str, list[float]] = {kind: [] for kind in KINDS}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    best: dict[str, int] = dict.fromkeys(KINDS, 1)
    tried: dict[str, dict[int, float]] = {}
    peak: dict[str, float] = {}
    try:
        ready = engine.prepare_data()
        names = build_model(config, ready.info).names
        specs = plan_stages(config, partition(names, config.stages))
        for kind in KINDS:
            check_kind(kind, config, [spec.layers for spec in specs])
        for kind in PIPELINED:
            short = max(4, steps // 4)
            sizes = micro_batches(kind, config.train.batch_size, len(specs))
            tried[kind] = {m: baseline(kind, config, specs, short, m).step_ms for m in sizes}
            best[kind] = min(tried[kind], key=tried[kind].__getitem__)
        engine.start(specs, None)
        streaming = Streaming(engine)
        streaming.warm_up()
        for _ in range(repeats):
            before = streaming.turn(steps).step_ms
            for kind in KINDS:
                one = baseline(kind, config, specs, steps, best[kind])
                found[kind].append(one.step_ms)
                peak[kind] = one.peak_mib
                after = streaming.turn(steps).step_ms
                around[kind].append((before + after) / 2)
                before = after
        grown = streaming.grown_mib()
    finally:
        engine.close()
    return Compared(around, found, best, tried, peak, grown)


def compare_table(name: str, found: Compared) -> Table:
    """One row for each way to train."""
    table = Table(title=f"{name}: milliseconds a step, medians of {len(found.ours_ms)} turns")
    for column in ("", "step", "/ ours", "lowest to highest", "micro-batches", "peak, MiB"):
        table.add_column(column, justify="left" if not column else "right")
    own = ", ".join(f"{mib:.0f}" for mib in found.ours_mib)
    table.add_row("scpl-ray", f"{statistics.median(found.ours_ms):.1f}", "1.00", "", "", own)
    for kind, steps in found.steps_ms.items():
        ratios = found.ratios(kind)
        table.add_row(
            kind,
            f"{statistics.median(steps):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            str(found.micro_batches[kind]),
            f"{found.peak_mib[kind]:.0f}",
        )
    return table
