"""The scripts in examples/ run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import no_process_left

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
    told = [file.read_text() for file in tmp_path.glob("runs/tune/trial_*/metrics.jsonl")]
    assert len(told) == 2
    rows = [json.loads(line) for text in told for line in text.splitlines()]
    # Tune ends a trial when it has said enough: there is no look at the test split.
    reached = [r["exits"][-1]["accuracy"] for r in rows if r["kind"] == "validation"]
    assert float(found[1]) == pytest.approx(max(reached), abs=5e-4)
    no_process_left(tmp_path, limit_s=10)
