"""Layer costs measured on this machine, in a fresh process with a stage actor's settings.

Each layer runs as a stage of its own, and behind its neighbour as a stage of two; the difference
is what the gradient of its input costs. As `scpl_ray.profiling`, whose clock it uses, but with the
parts of a step and the memory. Meanwhile other processes do the same, as the other stages will:
they share caches and the way to memory.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.config.schema import Config
from scpl_ray.planning.costs import Costs, LayerCost
from scpl_ray.spawned import spawned

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Event

    from scpl_ray.data.batch import DataInfo
    from scpl_ray.profiling import Input
    from scpl_ray.stage import Stage

_BATCHES, _WARM_UP, _COPY_MIB = 4, 2, 8
_BESIDE = 30

IDLE_RAY = 0.04
"""Of a core: what the processes of a local Ray with a few stages take when they do nothing."""


@dataclass(frozen=True)
class Profile:
    """What a fresh process found.

    Attributes:
        costs: of the layers.
        steps_per_epoch: of the config's data.
        threads: that each stage would have here.
    """

    costs: Costs
    steps_per_epoch: int
    threads: int


def profile(config: Config, stages: int | None) -> Profile:
    """Measures every layer in a spawned process.

    Args:
        config: the job.
        stages: that will run at the same time: they decide the threads of each; None: as many
            as the config says, or layers.
    """
    paths = [str(Path.cwd()), *[p for p in sys.path if p]]
    context = multiprocessing.get_context("spawn")
    others: list[BaseProcess] = []
    with spawned(1) as pool:
        try:
            threads, places = pool.apply(_places, (config, stages, paths))
            for _ in range(places - 1):
                started = context.Event()
                process = context.Process(
                    target=_do_the_same, args=(config, threads, paths, started), daemon=True
                )
                process.start()
                others.append(process)
                while process.is_alive() and not started.wait(0.1):
                    pass
            return pool.apply(_profile, (config, threads, paths))
        finally:
            for other in others:
                other.kill()
                other.join()


def stages_beside(config: Config, cut: Sequence[tuple[str, ...]]) -> tuple[float, ...]:
    """Seconds of each stage's step while all compute at once, as they will.

    Layers one at a time find warm caches and a quiet way to memory; several stages on shared
    cores do not.

    Args:
        config: the job.
        cut: names of the layers of each stage.
    """
    from scpl_ray.bench.alone import stages_side_by_side
    from scpl_ray.stage import plan_stages

    times = stages_side_by_side(config, plan_stages(config, list(cut)), _BESIDE)
    return tuple(ms / 1000 for ms in times)


def _places(config: Config, stages: int | None, paths: list[str]) -> tuple[int, int]:
    """Threads of a stage, and how many stages compute at the same time here."""
    sys.path[:0] = [p for p in paths if p not in sys.path]
    from scpl_ray.engine.data import load_data
    from scpl_ray.engine.placement import num_cores, threads_per_stage
    from scpl_ray.models.registry import build_model

    count = stages or num_stages(config, len(build_model(config, load_data(config)[1].info).names))
    threads = threads_per_stage(config, count)
    return threads, max(1, min(count, num_cores() // threads))


def _do_the_same(config: Config, threads: int, paths: list[str], started: Event) -> None:
    """Keeps a core as busy as another stage will; until it is killed."""
    while True:
        _profile(config, threads, paths, started)


def _profile(
    config: Config, threads: int, paths: list[str], started: Event | None = None
) -> Profile:
    sys.path[:0] = [p for p in paths if p not in sys.path]
    from scpl_ray.engine.build import prepare_stage_process
    from scpl_ray.engine.data import load_data
    from scpl_ray.engine.placement import num_cores
    from scpl_ray.models.activation import from_batch
    from scpl_ray.models.registry import build_model
    from scpl_ray.planning.estimate import can_repeat
    from scpl_ray.planning.layer_facts import activation_mib

    loader, ready = load_data(config)
    model = build_model(config, ready.info)
    prepare_stage_process(config, threads)
    batches = []
    made = []
    for i in range(min(_BATCHES, ready.steps_per_epoch)):
        begun = time.perf_counter()
        batches.append(loader.train_batch(i))
        made.append(time.perf_counter() - begun)
    inputs = [from_batch(batch) for batch in batches]
    if started is not None:
        started.set()
    layers = _measure_layers(config, ready.info, model.names, inputs)
    source = f"measured on this machine, {threads} threads a stage, {num_cores()} cores"
    costs = Costs(
        layers,
        source,
        can_repeat(config, model.more),
        input_mib=activation_mib(inputs[0][0]),
        data_s=statistics.median(made),
        # Who is killed with a block of shared memory in hand leaves it behind.
        copy_s_mib=_copy_s() if started is None else 0.0,
    )
    return Profile(costs, ready.steps_per_epoch, threads)


def num_stages(config: Config, layers: int) -> int:
    """Stages that a config asks for, or as many as layers where it leaves that open."""
    if isinstance(config.stages, int):
        return config.stages
    return len(config.stages) if isinstance(config.stages, list) else layers


def _copy_s() -> float:
    """Seconds to copy a MiB into the transport or out of it, their mean.

    By memory that processes share and that has been touched, as a run's has once it kept what a
    period between snapshots keeps.
    """
    import numpy as np

    block = np.ones(_COPY_MIB * 2**20, dtype=np.uint8)

    shared = SharedMemory(create=True, size=block.nbytes)

    def there_and_back() -> None:
        written = np.ndarray(block.shape, block.dtype, shared.buf)
        written[:] = block
        written.copy()

    try:
        return _median(there_and_back) / _COPY_MIB / 2
    finally:
        shared.close()
        shared.unlink()


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_WARM_UP + 5):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[_WARM_UP:])


def _measure_layers(
    config: Config, info: DataInfo, names: tuple[str, ...], batches: list[Input]
) -> tuple[LayerCost, ...]:
    from scpl_ray.planning.layer_facts import activation_mib, look
    from scpl_ray.profiling import layer_stage, time_stage

    inputs = previous = batches
    found = []
    before: tuple[float, float] | None = None  # a step of the layer before; its heads
    for i, name in enumerate(names):
        last = i + 1 == len(names)
        stage = layer_stage(config, info, (name,), last)
        facts = look(stage, config, *inputs[0])
        parts, outputs = time_stage(stage, inputs)
        in_head = facts.head_params_mib / max(facts.params_mib + facts.head_params_mib, 1e-9)
        head = _time_head(stage, outputs) + in_head * parts.optimizer_s
        body = max(0.0, parts.update_s - head)
        optimizer = (1 - in_head) * parts.optimizer_s
        gradient = 0.0
        if before is not None:
            pair = layer_stage(config, info, (names[i - 1], name), last)
            both = time_stage(pair, previous)[0].whole_s
            gradient = both - (before[0] - before[1]) - parts.whole_s
        found.append(
            LayerCost(
                name=name,
                forward_s=parts.forward_s,
                update_s=body,
                head_s=min(head, parts.update_s),
                params_mib=facts.params_mib,
                activation_mib=activation_mib(facts.output),
                saved_mib=facts.saved_mib,
                flops=facts.flops,
                input_grad_s=max(gradient, -body),
                optimizer_s=min(optimizer, body),
                backward_s=max(0.0, body - optimizer + gradient),
                head_params_mib=facts.head_params_mib,
            )
        )
        before = (parts.whole_s, min(head, parts.update_s))
        previous, inputs = inputs, outputs
    return tuple(found)


def _time_head(stage: Stage, outputs: list[Input]) -> float:
    """Forward, loss and backward of the heads alone."""
    activation, labels = outputs[0]
    import torch

    reduced = stage.module.reduce(activation).float().detach().requires_grad_(True)
    hidden = activation.hidden.float().detach().requires_grad_(True)
    mixed = stage.run.config.train.precision == "bf16"

    def once() -> None:
        with torch.autocast(stage.device.type, torch.bfloat16, enabled=mixed):
            loss = stage.module.objective(reduced, labels, hidden)
        loss.total.backward()

    return _median(once)
