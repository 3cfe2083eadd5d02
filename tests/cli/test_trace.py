"""`train --trace`."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.helpers import cli

TREE = {
    "name": "traced",
    "data": {"source": "digits", "limit": 200},
    "model": {"factory": "scpl_ray.bench.model:build", "options": {"width": 16}},
    "train": {"epochs": 2, "batch_size": 32},
    "resources": {"threads": 1, "device": "cpu"},
    "output": {"dir": "runs", "tensorboard": False},
}


def test_a_timeline_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(TREE))
    done = cli("train", "job.yaml", "--trace", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "timeline: runs/traced/trace.png" in done.stdout
    run = tmp_path / "runs/traced"
    steps = json.loads((run / "summary.json").read_text())["steps"]
    events = json.loads((run / "trace.json").read_text())
    forwards = sorted(
        (e["tid"], e["args"]["step"]) for e in events if e["ph"] == "X" and e["name"] == "forward"
    )
    assert forwards == [(stage, step) for stage in (1, 2) for step in range(steps)]
    assert (run / "trace.png").stat().st_size > 5_000
