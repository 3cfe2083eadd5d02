"""Attaching to a Ray cluster, or starting one on this machine, and leaving it as it was.

Ray itself waits a minute and more where nothing of Ray answers, and 20 s where the token is wrong;
`attach` says so in seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scpl_ray.config.schema import Config
from scpl_ray.engine.token import token_place
from scpl_ray.errors import ResourceError

_PROBE_S = 3.0
_ATTACH_S = 10.0
# Nobody reads what a local Ray records of itself. Of each call its GCS would keep the last 100,000
# (it grew by 6 MiB a minute); the metrics cost a quarter of what its processes take when idle.
_NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
_QUIET = {
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    **_NO_METRICS,
}
# What Ray starts on a head node even so, by file: to carry what workers print to drivers (it looks
# at each file of each worker ten times a second, and takes a fifth of what an idle Ray takes, more
# with every stage), to serve the dashboard's HTTP interface without its pages, and to ask a cloud
# for more nodes. The files of the workers are written by the workers themselves.
_NEEDLESS = ("log_monitor.py", "dashboard.py", "monitor.py")


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
    address = _address(config)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    options: dict = {"logging_level": logging.INFO if debug else logging.ERROR}
    options |= {"log_to_driver": debug, "namespace": f"scpl-ray-{os.getpid()}"}
    if address and address != "local":
        attach(address, **options)
        return True
    options |= {"address": "local", "include_dashboard": False}
    _set_quiet(exports(config))
    if config.resources.object_store_mib:
        options["object_store_memory"] = config.resources.object_store_mib * 2**20
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        # Ray takes SIGTERM for itself; ours ends the run as Ctrl-C does, and cleans up.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        if not debug:
            _end_needless(exports(config))
    except Exception as error:
        raise ResourceError(
            f"Ray did not start on this machine: {str(error).splitlines()[0]}"
        ) from error
    return True


def _set_quiet(exported: bool) -> None:
    """What the local Ray that starts now records of itself; what the user has set stays."""
    for name, value in _QUIET.items():
        if not (exported and name in _NO_METRICS):
            os.environ.setdefault(name, value)
        elif os.environ.get(name) == value:
            del os.environ[name]  # of a run before, in this process


def _end_needless(exported: bool) -> None:
    """Ends what nobody asks of a local Ray; see `_NEEDLESS`.

    Args:
        exported: Prometheus finds the metrics by a file that the dashboard's process writes.
    """
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            files = {Path(part).name for part in process.cmdline()[:4]}
            if files & set(_NEEDLESS) and not (exported and "dashboard.py" in files):
                process.kill()  # the autoscaler would report an error if it could


def attach(address: str, **options: Any) -> None:
    """Joins a running cluster, or says within seconds why not.

    Args:
        address: HOST:PORT, ray://HOST:PORT or auto.
        options: more for `ray.init`.

    Raises:
        ResourceError: nothing answers, it is no Ray, or the token is missing or wrong.
    """
    _probe(address)
    outcome: list[BaseException | None] = []

    def join() -> None:
        try:
            ray.init(address=address, **options)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    on_sigterm = signal.getsignal(signal.SIGTERM)
    # Ray's C++ part tells of a wrong token on file descriptor 2 only, again and again.
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            thread = threading.Thread(target=join, daemon=True)
            thread.start()
            deadline = time.monotonic() + _ATTACH_S
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(0.05)
                if b"InvalidAuthToken" in os.pread(said.fileno(), 2**20, 0):
                    break
            words = os.pread(said.fileno(), 2**20, 0).decode(errors="replace")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    if outcome and outcome[0] is None:
        return
    raise ResourceError(_why_not(address, words, outcome[0] if outcome else None))


def _why_not(address: str, words: str, error: BaseException | None) -> str:
    if "Token" in words or "uthenticat" in f"{words} {error}":
        return (
            f"the cluster at {address} does not accept this user's token ({token_place()}); put "
            "the token of the cluster into ~/.ray/auth_token or RAY_AUTH_TOKEN (on the head node, "
            "`ray get-auth-token` prints it)"
        )
    reason = f" ({str(error).splitlines()[0]})" if error is not None and str(error) else ""
    return (
        f"no Ray cluster answers at {address} within {_ATTACH_S:g} s{reason}; give the address "
        "that `ray start --head` printed (port 6379 by default), or ray://HOST:10001 from outside"
    )


def is_private(config: Config) -> bool:
    """Whether the Ray of a config is this run's own, so that no node can join it."""
    address = _address(config)
    return not address or address == "local"


def exports(config: Config) -> bool:
    """Whether the figures of a run go through Ray's metrics to Prometheus."""
    asked = config.output.prometheus
    return asked is True or (asked == "auto" and not is_private(config))


def _address(config: Config) -> str | None:
    return config.resources.address or os.environ.get("RAY_ADDRESS")


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Places an actor on this process's node, where the files are that the config names."""
    return NodeAffinitySchedulingStrategy(own_node(), soft=False)


def own_node() -> str:
    """Ray's id of the machine that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def node_answers(node: str) -> bool:
    """Whether a machine of the cluster answers: its raylet is asked, for Ray itself takes long.

    Ray declares a machine dead after some missed health checks, 17 s by default.
    """
    for known in ray.nodes():
        if known["NodeID"] != node:
            continue
        try:
            address = (known["NodeManagerAddress"], known["NodeManagerPort"])
            socket.create_connection(address, timeout=_PROBE_S).close()
        except OSError:
            return False
        return bool(known["Alive"])
    return False


def own_address() -> str:
    """Where others on this machine reach the Ray of this process."""
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leaves Ray; a local instance ends with it."""
    ray.shutdown()


def _probe(address: str) -> None:
    """Asks the port first: Ray itself waits minutes for an address where nothing answers."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ResourceError(
            f"address {address!r} is not HOST:PORT; give the address that "
            "`ray start --head` printed, or leave it (resources.address) out for a local Ray"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise ResourceError(
            f"address: nothing answers at {address} ({error}); start the cluster, correct the "
            "address (resources.address, --address or RAY_ADDRESS), or leave it out for a local Ray"
        ) from error
