"""Efficiency of the pipeline: the slowest stage's compute alone against the streamed step."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass

from scpl_ray import schedule
from scpl_ray.config import Config
from scpl_ray.engine.build import build_stage, keep_freed_memory, prepare_process
from scpl_ray.engine.data import load_data
from scpl_ray.engine.pipeline import RayEngine
from scpl_ray.engine.placement import threads_per_stage
from scpl_ray.models.activation import from_batch
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import Stage, plan_stages
from scpl_ray.stage_facts import StageSpec

_WARM_UP = 5


@dataclass(frozen=True)
class Measured:
    """One benchmark; times in milliseconds, medians over repeats.

    Attributes:
        alone_ms: each stage's forward, loss, backward and update without Ray, one at a time.
        step_ms: the pipeline's step in steady state.
        fill_ms: from the first batch sent to its end at the last stage.
        busy: share of time that each stage computes.
        efficiency: slowest stage alone / step; median of the repeats' own ratios.
        efficiencies: the ratio of each repeat.
    """

    alone_ms: list[float]
    step_ms: float
    fill_ms: float
    busy: list[float]
    efficiency: float
    efficiencies: list[float]


def measure(config: Config, steps: int, repeats: int) -> Measured:
    """Runs stages alone and the pipeline in turns, so that both see the same machine.

    Args:
        config: the job; its `train.epochs` must cover the steps.
        steps: timed steps of each turn.
        repeats: turns.
    """
    engine = RayEngine(config)
    try:
        ready = engine.prepare_data()
        model = build_model(config, ready.info)
        specs = plan_stages(config, partition(model.names, config.stages))
        engine.start(specs, None)
        alone: list[list[float]] = []
        steps_ms, fills, busy = [], [], []
        begun = 0
        for _ in range(repeats):
            before = stages_alone(config, specs, max(5, steps // 3))
            work = [schedule.Train(begun + i, 0) for i in range(steps + _WARM_UP)]
            begun += len(work)
            step_ms, fill_ms, shares = _stream(engine, work)
            after = stages_alone(config, specs, max(5, steps // 3))
            alone.append([(a + b) / 2 for a, b in zip(before, after, strict=True)])
            steps_ms.append(step_ms)
            fills.append(fill_ms)
            busy.append(shares)
    finally:
        engine.close()
    ratios = [max(a) / s for a, s in zip(alone, steps_ms, strict=True)]
    return Measured(
        [statistics.median(column) for column in zip(*alone, strict=True)],
        statistics.median(steps_ms),
        statistics.median(fills),
        [statistics.median(column) for column in zip(*busy, strict=True)],
        statistics.median(ratios),
        ratios,
    )


def _stream(engine: RayEngine, work: list[schedule.Train]) -> tuple[float, float, list[float]]:
    start = time.perf_counter()
    ends, stats = [], []
    for done in engine.run(work):
        ends.append(time.perf_counter())
        stats.append(done.stats)
    # The window drains at the end: the last steps have the machine to themselves.
    window = min(engine.chain.window, len(ends) // 4)
    steady = ends[_WARM_UP : len(ends) - window]
    shares = []
    for column in zip(*stats[_WARM_UP : len(ends) - window], strict=True):
        worked = sum(s.forward_s + s.update_s for s in column)
        shares.append(worked / (worked + sum(s.waiting_s for s in column)))
    step_ms = 1000 * (steady[-1] - steady[0]) / (len(steady) - 1)
    return step_ms, 1000 * (ends[0] - start), shares


def stages_alone(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    """Times each stage by itself in a fresh process with the settings of a stage actor.

    Returns:
        Median milliseconds of forward and update of each stage.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_alone, (config, specs, steps))


def _alone(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    keep_freed_memory()
    prepare_process(config, threads_per_stage(config, len(specs)))
    loader, ready = load_data(config)
    device = "cpu"
    medians = []
    inputs = [from_batch(loader.train_batch(i)) for i in range(steps + 2)]
    for spec in specs:
        stage: Stage = build_stage(
            spec, config, ready.info, steps, ready.steps_per_epoch, device, None
        )
        times, outputs = [], []
        for i, (activation, labels) in enumerate(inputs):
            begin = time.perf_counter()
            output = stage.forward(i, activation, labels)
            stage.update(i)
            times.append(1000 * (time.perf_counter() - begin))
            outputs.append((output.map(lambda t: t.clone()), labels))
        medians.append(statistics.median(times[2:]))
        inputs = outputs
    return medians
