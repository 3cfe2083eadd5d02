"""CPU time of every process that a run on a local Ray consists of."""

from __future__ import annotations

import contextlib

import psutil

_KINDS = {
    "ray::DataActor": "data",
    "ray::ParkedActor": "parked",
    "ray::Mailbox": "mailbox",
    "ray::IDLE": "idle workers",
    "gcs_server": "gcs",
    "raylet": "raylet",
    "log_monitor": "agents",
    "monitor.py": "agents",
    "agent": "agents",
    "ray::DashboardAgent": "agents",
    "ray::RuntimeEnvAgent": "agents",
    "dashboard": "dashboard",
}


def cpu_seconds(stages: dict[int, int]) -> dict[str, float]:
    """CPU seconds, user and system, since each process began, by what the process is.

    Args:
        stages: number of the stage, by process.

    Returns:
        "driver" (this process), "stage 1" ..., "data", "raylet", "gcs", "agents" and the rest.
    """
    own = psutil.Process()
    spent = {"driver": _cpu(own)}
    numbers = {pid: f"stage {number}" for pid, number in stages.items()}
    for process in own.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            kind = numbers.get(process.pid) or _kind(process)
            spent[kind] = spent.get(kind, 0.0) + _cpu(process)
    return spent


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if line.startswith(("ray::StageActor", "ray::EndToEndActor")):
        return "standby"
    # The raylet's own command line names the agents that it starts.
    if (name := process.name()) in ("raylet", "gcs_server"):
        return _KINDS[name]
    return next((kind for mark, kind in _KINDS.items() if mark in line), "others")
