"""`stages: auto`: measured, said, kept, and the same run as with the cut written down."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.helpers import cli

TREE = {
    "name": "auto",
    "data": {"source": "digits", "limit": 200},
    "model": {
        "factory": "scpl_ray.bench.model:uneven",
        "options": {"widths": [256, 16, 16, 16]},
    },
    "stages": "auto",
    "train": {"epochs": 1, "batch_size": 32},
    "pipeline": {"engine": "local"},
    "resources": {"threads": 1, "device": "cpu"},
    "output": {"dir": "runs", "tensorboard": False},
}


def test_measured_once_and_the_same_as_written_down(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(TREE))
    wrong = cli("train", "job.yaml", "stages=auot", cwd=tmp_path)
    assert wrong.returncode == 2 and "stages" in wrong.stderr and "auto" in wrong.stderr
    assert not (tmp_path / "runs").exists()

    done = cli("train", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "stages: auto: 4 layers" in said and "balance" in said
    cut = yaml.safe_load((tmp_path / "runs/auto/config.yaml").read_text())["stages"]
    assert isinstance(cut, list) and sum(cut) == 4
    summary = json.loads((tmp_path / "runs/auto/summary.json").read_text())
    assert [len(layers) for layers in summary["stages"]] == cut

    again = cli("train", "job.yaml", "--resume", cwd=tmp_path)
    assert again.returncode == 0 and "stages: auto" not in again.stdout + again.stderr
    taken = cli("train", "job.yaml", cwd=tmp_path)
    assert taken.returncode == 2 and "is taken" in taken.stderr

    listed = cli("train", "job.yaml", f"stages={cut}", "name=listed", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    same = json.loads((tmp_path / "runs/listed/summary.json").read_text())
    assert same["weights_sha256"] == summary["weights_sha256"]
