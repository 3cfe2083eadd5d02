"""A file per job on this machine: where it runs, or how it ended. No Ray.

    STATE/scpl-ray/jobs/imdb-3f2a.json        STATE: ~/.local/state, or XDG_STATE_HOME

Written whole or not at all. A job whose process is gone without a word is shown as died.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import psutil

from scpl_ray.errors import JobError, nearest
from scpl_ray.run_folder import write_atomically

RUNNING = "running"
_KEPT_ENDED = 50
_SILENT_S = 60.0


@dataclass(frozen=True)
class JobRecord:
    """One job.

    Attributes:
        id: unique: the name and four digits.
        name: the run's name.
        folder: the run's folder, absolute.
        engine: ray or local.
        storage: where its checkpoints are.
        address: of its Ray; empty on the local engine, or before Ray has started.
        user: who started it.
        host: where its driver runs.
        pid: of the driver.
        process_at: when that process was made, for a pid may be used again.
        started_at: seconds since 1970.
        status: running, finished, stopped, interrupted, failed or died.
        error: why it failed.
        ended_at: seconds since 1970, None while it runs.
        progress: epoch, epochs, step, steps, a few seconds old.
    """

    id: str
    name: str
    folder: str
    engine: str = "ray"
    storage: str = ""
    address: str = ""
    user: str = ""
    host: str = ""
    pid: int = 0
    process_at: float = 0.0
    started_at: float = 0.0
    status: str = RUNNING
    error: str = ""
    ended_at: float | None = None
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.status == RUNNING


def new_record(
    name: str, folder: Path, engine: str, job_id: str | None = None, storage: str = ""
) -> JobRecord:
    """Describes a job of this process."""
    return JobRecord(
        id=job_id or new_id(name),
        name=name,
        folder=str(folder.resolve()),
        engine=engine,
        storage=storage,
        user=user_name(),
        host=socket.gethostname(),
        pid=os.getpid(),
        process_at=psutil.Process().create_time(),
        started_at=time.time(),
    )


def user_name() -> str:
    """Who runs this process; the number where the system has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def new_id(name: str) -> str:
    """The name and four random digits."""
    return f"{name}-{secrets.token_hex(2)}"


def state_dir() -> Path:
    """Where records are."""
    return platformdirs.user_state_path("scpl-ray") / "jobs"


def write_record(record: JobRecord) -> None:
    """Writes or replaces a record, and forgets the oldest ended ones.

    Raises:
        JobError: the folder cannot be written.
    """
    folder = state_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(dataclasses.asdict(record), indent=2).encode()
        write_atomically(folder / f"{record.id}.json", content)
    except OSError as error:
        raise JobError(
            f"cannot write the job's record in {folder} ({error.strerror}); set XDG_STATE_HOME to "
            "a folder that you may write to"
        ) from error
    if not record.running:
        ended = [r for r in read_records() if not r.running]
        ended.sort(key=lambda r: r.ended_at or r.started_at)
        for old in ended[:-_KEPT_ENDED]:
            for suffix in (".json", ".out"):
                (folder / f"{old.id}{suffix}").unlink(missing_ok=True)


def read_records() -> list[JobRecord]:
    """All records of this machine's state folder, the oldest first."""
    records = []
    names = {f.name for f in dataclasses.fields(JobRecord)}
    for path in state_dir().glob("*.json"):
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            record = JobRecord(**{k: v for k, v in tree.items() if k in names})
        except (OSError, ValueError, TypeError, AttributeError):
            continue  # being replaced, or not ours
        if record.running and not _alive(record):
            record = dataclasses.replace(record, status="died", error="its process is gone")
        records.append(record)
    return sorted(records, key=lambda r: r.started_at)


def _alive(record: JobRecord) -> bool:
    """Whether the driver lives; one of another machine (a shared home) is believed."""
    if record.host != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(record.pid).create_time() - record.process_at) < 2
    except psutil.Error:
        return False


def spoke_lately(record: JobRecord) -> bool:
    """Whether a job that its record calls running can be taken at its word.

    One of this machine has been looked at. One of another writes its record every few seconds
    while it trains; where it has not for a minute, its machine may be gone.
    """
    if record.host == socket.gethostname():
        return True
    try:
        age = time.time() - (state_dir() / f"{record.id}.json").stat().st_mtime
    except OSError:
        return False
    return age < _SILENT_S


def choose(job: str | None, records: list[JobRecord], where: str = "here") -> JobRecord:
    """Finds the running job that is meant.

    Args:
        job: an id or a name; None: the only one that runs.
        records: what there is.
        where: for the message.

    Raises:
        JobError: there is none, or more than one, or it has ended.
    """
    running = [r for r in records if r.running]
    there = f"running {where}: {', '.join(_label(r, running) for r in running) or 'no job'}"
    if job is None:
        if len(running) == 1:
            return running[0]
        if running:
            raise JobError(f"say which JOB; {there}")
        last = next(iter(reversed(records)), None)
        ended = f". The last one: {ended_line(last)}" if last else ""
        raise JobError(f"no job runs {where}{ended}")
    found = [r for r in running if job in (r.id, r.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise JobError(
            f"{len(found)} jobs are named {job!r}; say which by its id: "
            + ", ".join(f"{r.id} ({r.user}@{r.host}, {r.folder})" for r in found)
        )
    ended_ones = [r for r in records if job in (r.id, r.name)]
    if ended_ones:
        raise JobError(ended_line(ended_ones[-1]))
    names = [name for r in running for name in (r.name, r.id)]
    raise JobError(f"no job {job!r}; {there}.{nearest(job, names)}")


def _label(record: JobRecord, running: list[JobRecord]) -> str:
    same = [r for r in running if r.name == record.name]
    return record.name if len(same) == 1 else record.id


def ended_line(record: JobRecord) -> str:
    """Says how a job ended and where its results are."""
    error = f" ({record.error.splitlines()[0]})" if record.error else ""
    folder = Path(record.folder)
    results = f"its results are in {folder}" if folder.is_dir() else "it left no results"
    return f"job {record.name!r} has ended: {record.status}{error}; {results}"
