"""The Ray that a run starts for itself has the processes that it needs, and leaves none behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil

from tests.helpers import small_config

SAY = """
import json, sys, psutil, ray
from scpl_ray.config import load_config
from scpl_ray.engine.cluster import connect, disconnect
connect(load_config(json.loads(sys.argv[1])))
psutil.wait_procs(psutil.Process().children(), timeout=1)
mine = psutil.Process().children(recursive=True)
lines = {p.pid: " ".join(p.cmdline()) for p in mine if p.status() != psutil.STATUS_ZOMBIE}

@ray.remote
def answer():
    return 42

assert ray.get(answer.remote()) == 42
disconnect()
print(json.dumps(lines))
"""


def test_no_process_does_what_nobody_asked_for(tmp_path: Path) -> None:
    tree = json.dumps(small_config(tmp_path, tmp_path), default=str)
    done = subprocess.run(
        [sys.executable, "-c", SAY, tree], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout.splitlines()[-1])
    assert any("raylet" in line for line in lines.values())
    for needless in ("log_monitor.py", "dashboard/dashboard.py", "monitor.py"):
        assert not [line for line in lines.values() if needless in line.split(" --")[0]]
    left = [process for process in psutil.process_iter() if str(process.pid) in lines]
    assert not psutil.wait_procs(left, timeout=10)[1]
