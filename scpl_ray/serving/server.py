"""Puts a run up: a Ray of its own, a deployment for each stage, the HTTP front in this process."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from scpl_ray.checkpoint import Checkpoint, read_checkpoint
from scpl_ray.early_exit import Measure, Rule
from scpl_ray.engine.cluster import connect, disconnect
from scpl_ray.errors import ConfigError
from scpl_ray.run_folder import CHECKPOINT
from scpl_ray.serving.app import Served, make_app
from scpl_ray.serving.listener import address
from scpl_ray.serving.settings import Settings
from scpl_ray.serving.trail import Group

APPLICATION = "scpl-ray"
_GRACE_S = 5
_ONGOING = 1000


def serve_run(
    folder: Path,
    settings: Settings,
    temperatures: Mapping[int, float],
    listener: socket.socket,
    say: Callable[[str], None],
    debug: bool = False,
) -> None:
    """Serves a run until Ctrl-C; then nothing is left running.

    Args:
        folder: the run's.
        settings: how.
        temperatures: of the exits, by their stage.
        listener: where requests come in.
        say: takes lines for people.
        debug: show the logs of Ray and of the front.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: the threshold is out of range.
        ResourceError: Ray does not start.
    """
    checkpoint = read_checkpoint(folder / CHECKPOINT)
    settings.check_threshold(checkpoint.info.num_classes)
    elsewhere = os.environ.get("RAY_ADDRESS") or checkpoint.config.resources.address
    if elsewhere and elsewhere != "local":
        say(f"the cluster at {elsewhere} is left aside: serving has a Ray of its own, here")
    _connect(checkpoint, debug)
    try:
        served = put_up(folder, checkpoint, settings, temperatures)
        where = address(listener)
        say(f"serving {folder} at {where}")
        say(
            f"stages {served.stages}, exits at {', '.join(map(str, served.exits))}; an exit "
            f"answers at {settings.measure} {_sign(settings.measure)} {settings.threshold:g}"
        )
        say("Ctrl-C ends it")
        _answer(served, settings, listener, debug)
    finally:
        # Ray is this server's own: it ends with all in it, sooner than Serve by itself.
        disconnect()


def put_up(
    folder: Path, checkpoint: Checkpoint, settings: Settings, temperatures: Mapping[int, float]
) -> Served:
    """Starts a deployment for each stage and waits until all run; Ray must have been started.

    Stages behind the last exit are not needed.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from scpl_ray.run_folder import fingerprint
    from scpl_ray.serving.ask import ask
    from scpl_ray.serving.stages import StageServer

    path = (folder / CHECKPOINT).resolve()
    exits = [spec.number for spec in checkpoint.specs if spec.with_exit]
    if not exits:
        raise ConfigError(f"{folder} has no exit head, so nothing answers")
    numbers = [s.number for s in checkpoint.specs if s.number <= exits[-1]]
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(proxy_location="Disabled", logging_config=quiet)
    deployment: Any = serve.deployment(
        StageServer,
        num_replicas=settings.replicas,
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": _share(len(numbers) * settings.replicas)},
        health_check_period_s=1,
        graceful_shutdown_timeout_s=2,
        logging_config=quiet,
    )
    behind: Any = None
    digest = fingerprint(path)
    for number in reversed(numbers):
        last = number == exits[-1]
        wait_s = settings.batch_wait_ms / 1000
        behind = deployment.options(name=stage_name(number)).bind(
            path, number, digest, last, behind, settings.max_batch, wait_s
        )
    handle = serve.run(behind, name=APPLICATION, route_prefix=None, logging_config=quiet)
    measure: Measure = "entropy" if settings.measure == "entropy" else "confidence"
    rule = Rule(settings.threshold, measure, temperatures)

    async def first(group: Group) -> Any:
        return await ask(handle, group)

    return Served(
        checkpoint.config.name,
        checkpoint.info,
        rule,
        exits,
        len(numbers),
        first,
        lambda: running(numbers),
    )


def stage_name(number: int) -> str:
    """Name of a stage's deployment."""
    return f"stage-{number}"


def running(numbers: list[int]) -> dict[int, int]:
    """Replicas of each stage that run."""
    from ray import serve
    from ray.serve.schema import ReplicaState

    found = serve.status().applications[APPLICATION].deployments
    return {
        number: int(found[stage_name(number)].replica_states.get(ReplicaState.RUNNING, 0))
        for number in numbers
    }


def _share(processes: int) -> float:
    """Logical cores of a replica: all find a place, however many there are."""
    import ray

    cores = ray.cluster_resources().get("CPU", 1.0)
    return min(1.0, int(100 * cores / processes) / 100)


def _connect(checkpoint: Checkpoint, debug: bool) -> None:
    os.environ.pop("RAY_ADDRESS", None)
    resources = checkpoint.config.resources.model_copy(update={"address": "local"})
    connect(checkpoint.config.model_copy(update={"resources": resources}), debug)


def _answer(served: Served, settings: Settings, listener: socket.socket, debug: bool) -> None:
    """Answers requests until a signal comes."""
    if not debug:
        quieten()
    config = uvicorn.Config(
        make_app(served, settings),
        log_level="info" if debug else "error",
        access_log=debug,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=4 * settings.limits.pending,
    )
    uvicorn.Server(config).run(sockets=[listener])


def quieten() -> None:
    """Keeps what malformed requests make libraries say out of the log; clients are told."""
    from PIL import Image

    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # The front looks at the size by itself, and is stricter.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _sign(measure: str) -> str:
    return ">=" if measure == "confidence" else "<="
