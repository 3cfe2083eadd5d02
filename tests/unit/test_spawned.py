"""Processes for measurements leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scpl_ray.spawned import spawned

HOLDER = """
import multiprocessing
import time
from multiprocessing.util import Finalize

def hold():
    # As libraries do: a semaphore that its process gives back when it ends by itself, if it may.
    global held
    held = multiprocessing.get_context("spawn").Semaphore()
    Finalize(None, time.sleep, (0.5,), exitpriority=100)
    return 1

def fail():
    raise KeyError("no such layer")
"""


def run(folder: Path, call: str) -> subprocess.CompletedProcess[str]:
    (folder / "holder.py").write_text(HOLDER)
    main = f"""
import holder
from scpl_ray.spawned import spawned

if __name__ == "__main__":
    with spawned(2) as pool:
        print(pool.apply(holder.{call}))
"""
    (folder / "main.py").write_text(main)
    return subprocess.run(
        [sys.executable, "main.py"], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_they_end_by_themselves(tmp_path: Path) -> None:
    done = run(tmp_path, "hold")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_failure_is_heard(tmp_path: Path) -> None:
    done = run(tmp_path, "fail")
    assert done.returncode == 1 and "KeyError: 'no such layer'" in done.stderr


@pytest.mark.parametrize("processes", [0, -1])
def test_no_process(processes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"), spawned(processes):
        pass
