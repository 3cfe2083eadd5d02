"""Each stage's compute by itself: no Ray, no other stage, the settings of a stage's process."""

from __future__ import annotations

import multiprocessing
import statistics
import time

from scpl_ray.config import Config
from scpl_ray.engine.build import build_stage, prepare_stage_process
from scpl_ray.engine.data import load_data
from scpl_ray.engine.placement import threads_per_stage
from scpl_ray.models.activation import from_batch
from scpl_ray.stage import Stage
from scpl_ray.stage_facts import StageSpec


def stages_alone(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    """Times each stage by itself in a fresh process with the settings of a stage actor.

    Returns:
        Median milliseconds of forward and update of each stage.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_alone, (config, specs, steps))


def _alone(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    prepare_stage_process(config, threads_per_stage(config, config.processes(len(specs))))
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
