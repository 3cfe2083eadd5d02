"""Layers measured on a cluster's device, as a Ray task that holds what a stage would hold."""

from __future__ import annotations

import ray

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.engine import cluster
from scpl_ray.engine.actors import extend_path
from scpl_ray.engine.build import prepare_stage_process
from scpl_ray.engine.data import load_data
from scpl_ray.engine.placement import place, threads_per_stage
from scpl_ray.profiling import LayerTimes, measure_layers


def measure_on_cluster(config: Config, paths: list[str], count: int) -> tuple[LayerTimes, int]:
    """Measures the layers on one of the cluster's devices.

    Args:
        config: the run's config.
        paths: entries of the module path, for models of the user's own.
        count: real batches to measure with.

    Returns:
        The times, and the number of devices: GPUs, or cores where there are none.
    """
    cluster.connect(config)
    try:
        total = ray.cluster_resources()
        gpus = int(total.get("GPU", 0)) if config.resources.device != "cpu" else 0
        devices = gpus or max(1, int(total.get("CPU", 1)))
        wanted = place(config, devices, total, private=False)
        loader, ready = load_data(config)
        count = min(count, ready.steps_per_epoch)
        batches = [loader.train_batch(i) for i in range(count)]
        task = ray.remote(_task).options(
            num_cpus=wanted.num_cpus, num_gpus=wanted.num_gpus, max_retries=0, max_calls=1
        )
        threads = threads_per_stage(config, devices)
        asked = task.remote(config, ready.info, batches, threads, wanted.device, paths)
        times: LayerTimes = ray.get(asked, timeout=config.pipeline.prepare_timeout_s)
        return times, devices
    finally:
        cluster.disconnect()


def _task(
    config: Config,
    info: DataInfo,
    batches: list[Batch],
    threads: int,
    device: str,
    paths: list[str],
) -> LayerTimes:
    extend_path(paths)
    prepare_stage_process(config, threads)
    return measure_layers(config, info, batches, device)
