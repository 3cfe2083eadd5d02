"""`stages: auto`: measures the layers where stages would run, and cuts them evenly in time."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.balance import balance, stage_costs, useful_stages
from scpl_ray.config import Config

if TYPE_CHECKING:
    from scpl_ray.profiling import LayerTimes

_BATCHES = 4


def cut_layers(config: Config) -> tuple[Config, str]:
    """Replaces `stages: auto` by the layers of each stage.

    Args:
        config: with any `stages`; a cut that is given stays.

    Returns:
        The config, and what was found in one line; empty if nothing was to be found.
    """
    if config.stages != "auto":
        return config, ""
    context = multiprocessing.get_context("spawn")
    paths = [str(Path.cwd()), *[p for p in sys.path if p]]
    with context.Pool(1) as pool:
        times, devices = pool.apply(_measured, (config, paths))
    speeds = config.resources.device_speeds
    cut = useful_stages(
        times.of, len(times.names), min(devices, len(speeds or []) or devices), speeds
    )
    return config.model_copy(update={"stages": cut}), _line(times, cut, devices, speeds)


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
