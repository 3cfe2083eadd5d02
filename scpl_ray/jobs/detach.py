"""`train --detach`: the same command in a session of its own, watched until it trains."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scpl_ray.errors import RunError, UserError
from scpl_ray.jobs.record import new_id, read_records, state_dir

_LOOK_S = 0.2


def start_detached(arguments: list[str], name: str) -> Iterator[str]:
    """Starts a job in the background and yields what it says until training has begun.

    Args:
        arguments: of `scpl-ray train`.
        name: the run's name.

    Raises:
        UserError: the job found something to mend.
        RunError: it failed in another way before training.
    """
    job_id = new_id(name)
    folder = state_dir()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job_id}.out"
    command = [sys.executable, "-m", "scpl_ray", "train", *arguments, "--job-id", job_id]
    with path.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    errors: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as said:
        while True:
            code = process.poll()
            for line in said.read().splitlines():
                if errors or line.startswith("error: "):
                    errors.append(line)
                else:
                    yield line
            if code:
                raise _failure(code, "\n".join(errors), path)
            if code == 0 or _trains(job_id):
                break
            time.sleep(_LOOK_S)
    yield (
        f"job {name} ({job_id}) runs in the background: scpl-ray status {job_id}, logs, grow, stop"
    )


def _trains(job_id: str) -> bool:
    return any(r.id == job_id and r.progress for r in read_records())


def _failure(code: int, said: str, path: Path) -> Exception:
    words = said.removeprefix("error: ") or f"it ended with code {code}; see {path}"
    return (UserError if code == 2 else RunError)(words)
