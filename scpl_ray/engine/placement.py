"""What each stage asks of the cluster. Pure: resources in, a decision and its wording out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from scpl_ray.config.schema import Config
from scpl_ray.engine.base import Ask
from scpl_ray.errors import ResourceError


@dataclass(frozen=True)
class Placement:
    """The resources of one stage.

    Attributes:
        device: "cpu" or "cuda".
        num_cpus: CPU cores that Ray reserves.
        num_gpus: GPUs, or the share of one.
        line: the decision in one line for the user.
    """

    device: str
    num_cpus: float
    num_gpus: float
    line: str


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_per_stage(config: Config, num_stages: int) -> int:
    """CPU threads of each stage: as configured, else a fair share of this machine's cores."""
    return config.resources.threads or max(1, num_cores() // num_stages)


def place(
    config: Config, num_stages: int, total: Mapping[str, float], private: bool = True
) -> Placement:
    """Decides device and resources of every stage.

    Args:
        config: `resources` and `replicas` are read.
        num_stages: processes of stages that live at the same time, replicas included.
        total: the cluster's resources, as `ray.cluster_resources()` gives them.
        private: no node can join; else an autoscaler may bring what `resources.device: cuda` asks.

    Raises:
        ResourceError: GPUs are demanded that the cluster has not and cannot get.
    """
    wish, cpus, gpus = config.resources, total.get("CPU", 0.0), total.get("GPU", 0.0)
    many = f"{num_stages} stages"
    named = many
    if config.replicas and config.replicas != "auto":
        each = ", ".join(f"stage {k}: {n} replicas" for k, n in sorted(config.replicas.items()))
        many = f"{num_stages} processes"
        named = f"{many} ({each})"
    cpu_share = max(0.01, _share(cpus, num_stages))
    if wish.device == "cpu" or (wish.device == "auto" and gpus == 0):
        if wish.gpus_per_stage is not None:
            raise ResourceError(
                f"resources.gpus_per_stage: {wish.gpus_per_stage} asked for each stage, but "
                + ("resources.device is cpu" if wish.device == "cpu" else "the cluster has no GPU")
                + "; leave it out, or add GPUs"
            )
        line = f"{named} on CPU, {threads_per_stage(config, num_stages)} threads each"
        if cpus < num_stages:
            line += f"; {cpus:g} cores for {many}: they share ({cpu_share:g} each)"
        return Placement("cpu", cpu_share, 0.0, line)
    if gpus == 0 and private:
        raise ResourceError(
            f"resources.device: 'cuda' asks for GPUs, but the cluster has none (CPU {cpus:g}, "
            "GPU 0); allowed here: auto, cpu"
        )
    share = wish.gpus_per_stage or _share(gpus, num_stages)
    may_come = wish.device == "cuda" and not private
    if may_come and gpus < num_stages * (wish.gpus_per_stage or 1):
        share = wish.gpus_per_stage or 1.0
        limit = config.pipeline.start_timeout_s
        line = f"{named} on GPU, {share:g} GPU each; the cluster has {gpus:g} now and "
        line += f"must bring the rest within pipeline.start_timeout_s = {limit:g} s"
        return Placement("cuda", cpu_share, share, line)
    # A share lies on one GPU: three shares of 0.66 do not fit on two GPUs.
    room = gpus // share if share >= 1 else gpus * math.floor(1 / share) if share else 0
    if num_stages > room:
        raise ResourceError(
            f"resources.gpus_per_stage: {num_stages} stages ask for {share:g} GPUs each, "
            f"{share * num_stages:g} in all; the cluster has {gpus:g}, room for {room:g} such "
            "stages (a share cannot be split over GPUs). Lower it (a share such as "
            "0.5 puts several stages on one GPU), use fewer stages, or add GPUs"
        )
    line = f"{named} on GPU, {share:g} GPU each"
    if share < 1:
        line += f"; {gpus:g} GPUs for {many}: they share"
    return Placement("cuda", cpu_share, share, line)


def at_once(placement: Placement, threads: int, total: Mapping[str, float], private: bool) -> float:
    """Stages that can compute at the same time; infinite: each has a device or cores of its own.

    Args:
        placement: of a stage.
        threads: CPU threads of each stage.
        total: the cluster's resources.
        private: Ray is this run's own, on this machine.
    """
    if placement.device != "cpu" or (not private and placement.num_cpus >= 1):
        return math.inf  # on a cluster, who has a core waits for nobody
    cores = num_cores() if private else total.get("CPU", 0.0)
    return max(1.0, cores // threads)


def place_one(like: Placement, ask: Ask, free: Mapping[str, float], private: bool) -> Placement:
    """Decides the resources of one more stage.

    Args:
        like: what the other stages hold.
        ask: what is asked for instead.
        free: the cluster's free resources.
        private: the Ray is this run's own, on one machine: no node can join it.

    Returns:
        The placement. On a private Ray a stage without a free core shares those of the others;
        on a cluster it waits for one, which is what an autoscaler sees.
    """
    gpus = like.num_gpus if ask.num_gpus is None else ask.num_gpus
    device = "cuda" if gpus else "cpu"
    cpus = like.num_cpus if ask.num_cpus is None else ask.num_cpus
    line = ""
    if private and ask.num_cpus is None and free.get("CPU", 0.0) < cpus:
        cpus, line = 0.0, "no core is free: it shares those of the other stages"
    return Placement(device, cpus, gpus, line)


def _share(whole: float, num_stages: int) -> float:
    """A stage's share of one core or GPU, such that the shares fit without being split."""
    if whole >= num_stages or whole <= 0:
        return 1.0 if whole > 0 else 0.0
    return math.floor(100 / math.ceil(num_stages / whole)) / 100


def shortage(
    placement: Placement, num_stages: int, free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """Words what was asked for against what is free and what there is."""
    rows = []
    for name, each in (("CPU", placement.num_cpus), ("GPU", placement.num_gpus)):
        if each:
            asked = f"{each:g} asked" if num_stages == 1 else f"{each:g} x {num_stages} asked"
            rows.append(
                f"{name}: {asked}, {free.get(name, 0.0):g} free, {total.get(name, 0.0):g} in all"
            )
    return "; ".join(rows)
