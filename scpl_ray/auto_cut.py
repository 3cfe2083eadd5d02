"""`stages: auto`, `replicas: auto`: measures layers where stages would run, and shares devices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.balance import balance, spread_devices, stage_costs, useful_stages
from scpl_ray.config import Config
from scpl_ray.partition import partition
from scpl_ray.spawned import spawned

if TYPE_CHECKING:
    from scpl_ray.profiling import LayerTimes

_BATCHES = 4


def cut_layers(config: Config) -> tuple[Config, str]:
    """Replaces `stages: auto` by the layers of each stage, `replicas: auto` by their numbers.

    Args:
        config: with any of them; what is given stays.

    Returns:
        The config, and what was found in one line; empty if nothing was to be found.
    """
    if not is_open(config):
        return config, ""
    paths = [str(Path.cwd()), *[p for p in sys.path if p]]
    with spawned(1) as pool:
        times, devices = pool.apply(_measured, (config, paths))
    speeds = config.resources.device_speeds
    if config.stages == "auto":
        most = min(devices, len(speeds or []) or devices)
        cut = useful_stages(times.of, len(times.names), most, speeds)
        line = _line(times, cut, devices, speeds)
    else:
        cut = [len(names) for names in partition(times.names, config.stages)]
        line = ""
    replicas = config.replicas
    if replicas == "auto":
        costs = stage_costs(times.of, cut)
        each = spread_devices(costs, devices)
        replicas = {k: n for k, n in enumerate(each, 1) if n > 1}
        line += ("; " if line else "") + _replicas_line(costs, each, devices)
    return config.model_copy(update={"stages": cut, "replicas": replicas}), line


def is_open(config: Config) -> bool:
    """Whether something is to be found by measuring."""
    return config.stages == "auto" or config.replicas == "auto"


def _replicas_line(costs: list[float], each: list[int], devices: int) -> str:
    found = ", ".join(
        f"stage {k}: {1000 * cost:.1f} ms, {n} replica{'s' if n > 1 else ''}"
        for k, (cost, n) in enumerate(zip(costs, each, strict=True), 1)
    )
    return f"replicas: auto: {devices} devices: {found}"


def _line(times: LayerTimes, cut: list[int], devices: int, speeds: list[float] | None) -> str:
    used = None if speeds is None else speeds[: len(cut)]
    costs = stage_costs(times.of, cut, used)
    each = ", ".join(f"{1000 * c:.1f}" for c in costs)
    perfect = sum(c * (1.0 if used is None else used[k]) for k, c in enumerate(costs))
    perfect /= len(cut) if used is None else sum(used)
    return (
        f"stages: auto: {len(times.names)} layers, {devices} devices: {cut} layers a stage; "
        f"measured {each} ms a step, balance {balance(costs):.2f} (the best cut between layers; "
        f"a perfectly even one would take {1000 * perfect:.1f} ms)"
    )


def _measured(config: Config, paths: list[str]) -> tuple[LayerTimes, int]:
    """In a fresh process: the layers' times, and the number of devices."""
    sys.path[:0] = [p for p in paths if p not in sys.path]
    if config.pipeline.engine == "ray":
        from scpl_ray.engine.cluster import is_private

        if not is_private(config):
            from scpl_ray.engine.profile_task import measure_on_cluster

            return measure_on_cluster(config, paths, _BATCHES)
    import torch

    from scpl_ray.engine.build import prepare_stage_process
    from scpl_ray.engine.data import load_data
    from scpl_ray.engine.placement import num_cores, threads_per_stage
    from scpl_ray.profiling import measure_layers

    gpus = torch.cuda.device_count() if config.resources.device != "cpu" else 0
    devices = gpus or num_cores()
    prepare_stage_process(config, threads_per_stage(config, devices))
    loader, ready = load_data(config)
    count = min(_BATCHES, ready.steps_per_epoch)
    batches = [loader.train_batch(i) for i in range(count)]
    return measure_layers(config, ready.info, batches, "cuda" if gpus else "cpu"), devices
