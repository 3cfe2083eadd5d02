"""What a job uses: memory by role, processes, files, the object store."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.job import Job, Target

_STAGES = {"first": "stage 1", "second": "stage 2", "third": "stage 3"}
_MIB = 2**20


@dataclass
class Sample:
    """One look.

    Attributes:
        at: seconds since the beginning.
        rss: MiB of each role, all its processes together; shared pages count in each.
        pss: the same with shared pages in equal shares.
        uss: the same without shared pages.
        roles: processes of each role.
        processes: in the job's folder, also of drivers that were killed.
        actors: processes that hold an actor of ours.
        files: in the run's folder.
        files_mib: their size.
        driver_fds: open files of the driver.
        object_store_mib: pages of the object store that were ever used.
        step: the newest finished step.
    """

    at: float
    rss: dict[str, float] = field(default_factory=dict)
    pss: dict[str, float] = field(default_factory=dict)
    uss: dict[str, float] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    processes: int = 0
    actors: int = 0
    files: int = 0
    files_mib: float = 0.0
    driver_fds: int = 0
    object_store_mib: float = 0.0
    step: int = -1


def take(job: Job, begun: float, step: int) -> Sample:
    """Looks at a job.

    Args:
        job: it.
        begun: when it began, on the monotonic clock.
        step: its newest finished step.
    """
    sample = Sample(round(time.monotonic() - begun, 2), step=step)
    for kind, targets in job.targets().items():
        for target in targets:
            with contextlib.suppress(psutil.Error, OSError):
                memory = target.process.memory_full_info()
                role = role_of(target)
                for name in ("rss", "pss", "uss"):
                    by_role: dict[str, float] = getattr(sample, name)
                    by_role[role] = by_role.get(role, 0.0) + getattr(memory, name) / _MIB
                sample.roles[role] = sample.roles.get(role, 0) + 1
                sample.actors += kind in ("stage", "standby", "data", "mailbox", "parked")
                if kind == "driver":
                    sample.driver_fds = target.process.num_fds()
                if kind == "raylet":
                    sample.object_store_mib = _object_store_mib(target.process.pid)
    sample.processes = sum(1 for _ in job.processes())
    for path in job.run.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                sample.files += 1
                sample.files_mib += path.stat().st_size / _MIB
    return sample


def role_of(target: Target) -> str:
    """The name under which a process is counted."""
    if target.role == "stage":
        return _STAGES.get(target.layer, f"stage {target.layer}")
    return target.role


def _object_store_mib(raylet: int) -> float:
    """Pages of plasma's file, which has no name any more: the raylet holds it open."""
    pages: dict[int, float] = {}
    for handle in Path(f"/proc/{raylet}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "plasma" in str(handle.readlink()) and "/dev/shm" in str(handle.readlink()):
                facts = handle.stat()
                pages[facts.st_ino] = facts.st_blocks * 512 / _MIB
    return sum(pages.values())
