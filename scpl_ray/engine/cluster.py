"""Attaching to a Ray cluster, or starting one on this machine, and leaving it as it was."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings

import ray

from scpl_ray.config.schema import Config
from scpl_ray.errors import ResourceError

_PROBE_S = 3.0


def connect(config: Config, debug: bool = False) -> bool:
    """Connects this process to Ray.

    The address is `resources.address`, else RAY_ADDRESS (set inside `ray job submit`), else a
    fresh local instance; never a guess among the clusters that happen to run here.

    Returns:
        Whether this call started or joined Ray, and `disconnect` must leave it.

    Raises:
        ResourceError: nothing answers at the address, or Ray does not start.
    """
    if ray.is_initialized():
        return False
    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    options: dict = {"logging_level": logging.INFO if debug else logging.ERROR}
    options |= {"log_to_driver": debug, "namespace": f"scpl-ray-{os.getpid()}"}
    if address and address != "local":
        _probe(address)
        options["address"] = address
    else:
        options |= {"address": "local", "include_dashboard": False}
        if config.resources.object_store_mib:
            options["object_store_memory"] = config.resources.object_store_mib * 2**20
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        # Ray takes SIGTERM for itself; ours ends the run as Ctrl-C does, and cleans up.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    except Exception as error:
        raise ResourceError(
            f"Ray did not start or join (resources.address: {address or 'local'}): "
            f"{str(error).splitlines()[0]}"
        ) from error
    return True


def is_private(config: Config) -> bool:
    """Whether the Ray of a config is this run's own, so that no node can join it."""
    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    return not address or address == "local"


def own_address() -> str:
    """Where others on this machine reach the Ray of this process."""
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leaves Ray; a local instance ends with it."""
    ray.shutdown()


def _probe(address: str) -> None:
    """Asks the port first: Ray itself waits minutes for an address where nothing answers."""
    if address == "auto" or address.startswith("ray://"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ResourceError(
            f"resources.address: {address!r} is not HOST:PORT; give the address that "
            "`ray start --head` printed, or leave it out for a local Ray"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise ResourceError(
            f"resources.address: nothing answers at {address} ({error}); start the cluster, "
            "correct the address (or RAY_ADDRESS), or leave it out for a local Ray"
        ) from error
