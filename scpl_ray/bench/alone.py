"""Each stage's compute without Ray, with the settings of a stage's process: alone, or side by side.

The second is what the machine itself allows: processes that compute at the same time share its
caches, its way to memory and its clock, whoever streams between them.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier

from torch import Tensor

from scpl_ray.config import Config
from scpl_ray.engine.build import build_stage, prepare_stage_process
from scpl_ray.engine.data import load_data
from scpl_ray.engine.placement import num_cores, threads_per_stage
from scpl_ray.models.activation import Activation, from_batch
from scpl_ray.spawned import spawned
from scpl_ray.stage import Stage
from scpl_ray.stage_facts import StageSpec

_WARM_UP = 4
_START_S = 120.0

Inputs = list[tuple[Activation, Tensor]]

_shared: tuple[Barrier, Synchronized[int]]


def stages_alone(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    """Times each stage by itself, one after another, in a fresh process.

    Returns:
        Milliseconds of forward and update of each stage: the mean of its steps, as the time of a
        streamed step is one.
    """
    with spawned(1) as pool:
        return pool.apply(_alone, (config, specs, steps))


def stages_side_by_side(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    """Times all stages at once, each in a process of its own, with nothing passed between them.

    Returns:
        Milliseconds of forward and update of each stage, likewise. Where there are more threads
        than cores, of CPU time by thread: what a step takes of a core.
    """
    context = multiprocessing.get_context("spawn")
    shared = (context.Barrier(len(specs)), context.Value("i", 0))
    with spawned(len(specs), _share, *shared) as pool:
        calls = [(config, specs, number, steps) for number in range(len(specs))]
        # By whoever ends first: a stage that fails is heard while the others still wait for it.
        found = dict(pool.imap_unordered(_beside, calls))
    return [found[number] for number in range(len(specs))]


def _share(barrier: Barrier, finished: Synchronized[int]) -> None:
    global _shared
    _shared = (barrier, finished)


def _alone(config: Config, specs: list[StageSpec], steps: int) -> list[float]:
    means = []
    inputs, stages = _ready(config, specs, steps)
    for stage in stages:
        times, outputs = [], []
        for i, (activation, labels) in enumerate(inputs):
            begin = time.perf_counter()
            output = stage.forward(i, activation, labels)
            stage.update(i, stage.stand_in_gradient())
            times.append(1000 * (time.perf_counter() - begin))
            outputs.append((output.map(lambda t: t.clone()), labels))
        means.append(statistics.fmean(times[_WARM_UP:]))
        inputs = outputs
    return means


def _beside(call: tuple[Config, list[StageSpec], int, int]) -> tuple[int, float]:
    """The number of the stage, from 0, and its milliseconds."""
    config, specs, number, steps = call
    barrier, finished = _shared
    inputs, stages = _ready(config, specs, steps)
    for earlier in islice(stages, number):
        inputs = [(earlier.evaluate(x, labels)[0], labels) for x, labels in inputs]
    stage = next(stages)
    threads = threads_per_stage(config, config.processes(len(specs)))
    crowded = threads * len(specs) > num_cores()
    barrier.wait(_START_S)
    times: list[float] = []
    # Until all have done so many: none is to be timed while another has already ended.
    while finished.value < len(specs):
        i = len(times)
        activation, labels = inputs[i % len(inputs)]
        begin, cpu = time.perf_counter(), time.process_time()
        stage.forward(i, activation, labels)
        stage.update(i, stage.stand_in_gradient())
        spent = (time.process_time() - cpu) / threads if crowded else time.perf_counter() - begin
        times.append(1000 * spent)
        if len(times) == len(inputs):
            with finished.get_lock():
                finished.value += 1
    return number, statistics.fmean(times[_WARM_UP : len(inputs)])


def _ready(config: Config, specs: list[StageSpec], steps: int) -> tuple[Inputs, Iterator[Stage]]:
    """The batches, and the stages, each built when it is asked for."""
    prepare_stage_process(config, threads_per_stage(config, config.processes(len(specs))))
    loader, ready = load_data(config)
    inputs = [from_batch(loader.train_batch(i)) for i in range(steps + _WARM_UP)]
    per_epoch = ready.steps_per_epoch
    return inputs, (
        build_stage(spec, config, ready.info, steps, per_epoch, "cpu", None) for spec in specs
    )
