"""The slice of a thread is what the system says it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scpl_ray.config import load_config
from scpl_ray.errors import ConfigError
from tests.helpers import small_config

SCHED = Path("/proc/self/sched")

SAY = """
import os, threading
from scpl_ray.engine.time_slice import set_time_slice
os.nice(3)
def slice_of(thread):
    told = open(f"/proc/self/task/{thread}/sched").read().splitlines()
    return next(int(line.split(":")[1]) for line in told if line.startswith("se.slice"))
before = threading.Thread(target=lambda: stop.wait())
stop = threading.Event()
before.start()
assert set_time_slice(50)
print(slice_of(os.getpid()), slice_of(before.native_id) < 50_000_000, os.nice(0))
stop.set()
"""


def test_the_thread_that_asks_has_it_and_keeps_its_priority() -> None:
    if not SCHED.exists() or "se.slice" not in SCHED.read_text():
        pytest.skip("this system has no slices of a thread's own (Linux 6.12 and later)")
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True)
    assert done.stdout.split() == ["50000000", "True", "3"], done.stderr


@pytest.mark.parametrize("value", [0, 200, "long"])
def test_a_slice_that_no_system_takes_is_refused(tmp_path: Path, value: object) -> None:
    tree = small_config(tmp_path, tmp_path)
    tree["resources"]["time_slice_ms"] = value
    with pytest.raises(ConfigError, match=r"resources\.time_slice_ms"):
        load_config(tree)
