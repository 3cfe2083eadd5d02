"""`scpl-ray bench --methods`, as people run it: real processes, a real pipeline, one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import cli

TREE: dict[str, Any] = {
    "data": {"source": "digits", "limit": 100},
    "model": {"kind": "convnet", "channels": [4, 8]},
    "train": {"epochs": 1, "batch_size": 32},
    "resources": {"threads": 1, "device": "cpu"},
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(TREE))
    return path


def test_methods_side_by_side(job: Path) -> None:
    folder = job.parent
    names = ["bp-one-core", "zero-bubble", "dascpl"]
    options = ["--repeats", "1", "--json", "--markdown", "all.md", "--plot", "all.png"]
    done = cli("bench", job, "--methods", ",".join(names), *options, cwd=folder, timeout=400)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == names
    assert set(rows["zero-bubble"]["exits"]) == {"2"}, "end to end has one exit"
    assert set(rows["dascpl"]["exits"]) == {"1", "2"} == set(rows["dascpl"]["validation"])
    for row in rows.values():
        last = row["exits"]["2"]["mean"]
        assert 0 <= last <= 1 and abs(last * 100 - round(last * 100)) < 1e-6, "of 100 test samples"
        base = rows["bp-one-core"]["samples_per_s"]["mean"]
        ratio = row["samples_per_s"]["mean"] / base
        assert row["speed_ups"] == {
            "bp-one-core": {"mean": pytest.approx(ratio), "deviation": None}
        }
    assert [len(found["runs"][name][0]["memory_mib"]) for name in names] == [1, 2, 2]
    tried = found["tried_ms"]["zero-bubble"]
    best = min(tried, key=tried.__getitem__)
    many = f"{best} micro-batch{'' if best == '1' else 'es'}"
    assert rows["zero-bubble"]["method"] == f"2 processes, {many}"
    head, _, *lines = (folder / "all.md").read_text().splitlines()
    assert head.startswith("| method | how | runs | exit 1, % | exit 2, % | validation 1, % |")
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in names]
    assert lines[0].split(" | ")[3] == "-", "the first exit is none of bp's"
    assert (folder / "all.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in folder.iterdir()) == ["all.md", "all.png", "job.yaml", "state"]


def test_what_cannot_be_is_said_before_anything_is_trained(job: Path) -> None:
    def refused(*args: str) -> str:
        done = cli("bench", job, *args, cwd=job.parent)
        assert done.returncode == 2, done.stderr
        return str(done.stderr)

    assert "unknown method 'gpip'" in (said := refused("--methods", "bp,gpip"))
    assert "Did you mean 'gpipe'?" in said
    said = refused("--methods", "scpl,zero-bubble", "stages=1")
    assert "zero-bubble is a pipeline of at least 2 stages" in said
    assert "'all.jpg' should end in .png" in refused("--methods", "bp", "--plot", "all.jpg")
