"""Promise 1 with every option on that makes a stage faster."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.helpers import cli

TREE = {
    "data": {"source": "digits", "limit": 400},
    "model": {"kind": "convnet", "channels": [4, 8]},
    "stages": 2,
    # 288 training samples, 32 for validation, 80 for the test: every batch is of one size, since each
    # size is compiled.
    "train": {"epochs": 2, "batch_size": 16, "precision": "bf16"},
    "optimizer": {"fused": True},
    "pipeline": {"activation_dtype": "bf16", "batches_per_call": 3},
    "resources": {"compile": True, "channels_last": True, "threads": 1, "device": "cpu"},
    "output": {"dir": "runs", "tensorboard": False},
}


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile needs a C++ compiler: CXX, or g++",
)
def test_engines_agree(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(TREE))
    summaries = {}
    for engine in ("local", "ray"):
        done = cli(
            "train",
            "job.yaml",
            f"pipeline.engine={engine}",
            f"name={engine}",
            cwd=tmp_path,
            timeout=400,
            env={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")},
        )
        assert done.returncode == 0, done.stderr
        summaries[engine] = json.loads((tmp_path / "runs" / engine / "summary.json").read_text())
    assert any((tmp_path / "compiled").rglob("*.so")), "nothing was compiled"
    assert summaries["local"]["weights_sha256"] == summaries["ray"]["weights_sha256"]
