"""The scripts in examples/ run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import processes_in

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_ray_tune_searches(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs scpl-ray[tune]")
    line = [sys.executable, str(EXAMPLES / "tune.py"), "--trials", "2", "--epochs", "1"]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"best of 2: (0\.\d+) on validation with", done.stdout)
    assert found is not None
    summaries = list(tmp_path.glob("runs/tune/trial_*/summary.json"))
    assert len(summaries) == 2
    reached = [json.loads(s.read_text())["exits"][-1]["validation_accuracy"] for s in summaries]
    assert float(found[1]) == pytest.approx(max(reached), abs=5e-4)
    assert processes_in(tmp_path) == []
