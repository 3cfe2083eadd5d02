"""Runs side by side: what is read, what is taken together, and what is said."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from scpl_ray.comparing.plot import draw
from scpl_ray.comparing.rows import figure, rows_of
from scpl_ray.comparing.runs import grouped, read_run
from scpl_ray.comparing.tables import markdown, values
from scpl_ray.errors import ConfigError


def make(folder: Path, name: str, seed: int, accuracies: list[float], **more: Any) -> Path:
    """A finished run's folder, with what `train` writes into it."""
    path = folder / name
    path.mkdir()
    config = {"name": name, "seed": seed, "method": "dascpl", "train": {"epochs": 2}} | more
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    exits = [{"stage": i, "test_accuracy": a} for i, a in enumerate(accuracies, 1)]
    summary = {"exits": exits, "epochs": 2, "train_seconds": 20.0 + seed, "samples_per_second": 100}
    (path / "summary.json").write_text(json.dumps(summary))
    stages = [
        {"stage": 1, "memory_mib": 300.0, "waiting_s": 0.1, "forward_s": 0.2, "update_s": 0.1},
        {"stage": 2, "memory_mib": 200.0, "waiting_s": 0.3, "forward_s": 0.05, "update_s": 0.05},
    ]
    lines = [{"kind": "step", "step": 0, "stages": stages}, {"kind": "test", "exits": []}]
    text = "\n".join(json.dumps(line) for line in lines)
    (path / "metrics.jsonl").write_text(text + '\n{"kind": "st')
    return path


def test_repetitions_share_a_row(tmp_path: Path) -> None:
    first = [make(tmp_path, f"a-seed{s}", s, [0.5, 0.6 + s / 100]) for s in (1, 2, 3)]
    other = make(tmp_path, "b", 1, [0.9], method="scpl")
    rows = rows_of(grouped([read_run(path) for path in [*first, other]]))
    assert [(row.name, row.method, row.runs) for row in rows] == [
        ("a", "dascpl", 3),
        ("b", "scpl", 1),
    ]
    last = rows[0].last
    assert last is not None and last.mean == pytest.approx(0.62)
    assert last.deviation == pytest.approx(statistics.stdev([0.61, 0.62, 0.63]))
    assert rows[0].epoch_s.mean == pytest.approx(11.0)
    assert rows[1].exits[1].deviation is None
    assert rows[1].speed_ups["a"].mean == pytest.approx(1.0)


def test_memory_is_of_the_fullest_stage_and_waiting_of_all(tmp_path: Path) -> None:
    run = read_run(make(tmp_path, "a", 1, [0.5]))
    assert run.memory_mib == (300.0, 200.0)
    assert run.idle == pytest.approx((0.1 / 0.4 + 0.3 / 0.4) / 2)


def test_markdown_and_values(tmp_path: Path) -> None:
    one, two = make(tmp_path, "a", 1, [0.5, 0.75]), make(tmp_path, "b", 1, [0.25], method="scpl")
    rows = rows_of(grouped([read_run(one), read_run(two)]))
    lines = markdown(rows).splitlines()
    assert lines[0] == (
        "| run | method | runs | exit 1, % | exit 2, % | s/epoch | samples/s | speed-up | MiB "
        "| waiting, % |"
    )
    assert lines[3].startswith("| b | scpl | 1 | 25.00 | - | 10.5 | 100 | 1.00 | 300 |")
    assert json.loads(json.dumps(values(rows)))[0]["exits"]["2"]["mean"] == 0.75


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    rows = rows_of(grouped([read_run(make(tmp_path, "a", 1, [0.5, 0.75]))]))
    draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_finished_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a run"):
        read_run(tmp_path)
    path = make(tmp_path, "a", 1, [0.5])
    (path / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as a run"):
        read_run(path)
    (path / "summary.json").unlink()
    with pytest.raises(ConfigError, match="has not finished.*--resume"):
        read_run(path)


def test_no_value_is_no_figure() -> None:
    assert figure([None, None]) is None
    only = figure([None, 2.0])
    assert only is not None and only.text(1) == "2.0"
