"""A process at rest is not woken before its time, and takes none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from scpl_ray.engine.rest import wake

AT_REST = """
import time
from scpl_ray.engine.rest import Rest
rest = Rest()
print("ready", flush=True)
%s
rest.wait()
print("woken", flush=True)
"""


def started(before: str = "") -> tuple[subprocess.Popen[str], float]:
    process = subprocess.Popen(
        [sys.executable, "-c", AT_REST % before], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, psutil.Process(process.pid).create_time()


def test_it_rests_until_it_is_woken() -> None:
    process, made_at = started()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    wake(process.pid, made_at)
    said, _ = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "woken\n")


def test_woken_before_it_rests() -> None:
    process, made_at = started("time.sleep(1)")
    wake(process.pid, made_at)
    said, _ = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "woken\n")


def test_another_process_of_its_number_is_left_alone() -> None:
    process, made_at = started()
    wake(process.pid, made_at - 1)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    wake(process.pid, made_at)
