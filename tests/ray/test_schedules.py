"""Random schedules of grow, shrink and stop: each ends well, exactly, and leaves nothing behind.

How many: `pytest --schedules 20 tests/ray/test_schedules.py`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.engine.base import Ask
from tests.helpers import Action, Condition, at, grow, run_job, shrink, stop
from tests.ray.test_growth import assert_nothing_left, growing

pytestmark = pytest.mark.usefixtures("ray_instance")


def schedule(seed: int) -> list[tuple[Condition, Action]]:
    """Some changes at random steps, then stop; often several at the same step."""
    draw = random.Random(seed)
    script: list[tuple[Condition, Action]] = []
    step = draw.randint(0, 10)
    for _ in range(draw.randint(1, 5)):
        action = draw.choice([grow(), grow(), shrink(), grow(ask=Ask(num_cpus=99), timeout_s=1)])
        script.append((at(step), action))
        step += draw.choice([0, 0, 5, draw.randint(20, 150)])
    return [*script, (at(step + draw.choice([0, 1, 60])), stop)]


def replay(tmp_path: Path, summary: dict[str, Any], stages: list[int]) -> list[str]:
    """The digests of the same changes, planned, in one process."""
    tree = growing(tmp_path, "replay", stages=stages)
    tree["model"]["options"]["sleep_s"] = 0.0
    tree["pipeline"] = {"engine": "local"}
    tree["elastic"] = {
        "grow_at": {"step": [g["step"] for g in summary["grown"] if g["step"]]},
        "shrink_at": {"step": [s["step"] for s in summary["shrunk"] if s["step"]]},
    }
    run, _ = run_job(tree, [(at(summary["steps"] - 1), stop)])
    assert run.summary["stages"] == summary["stages"]
    return list(run.summary["weights_sha256"])


def test_a_random_schedule(schedule_seed: int, tmp_path: Path) -> None:
    seed = schedule_seed
    stages = [2] if seed % 2 else [1, 1]
    run, commander = run_job(growing(tmp_path, f"s{seed}", stages=stages), schedule(seed))
    summary = run.summary
    assert summary["status"] == "stopped"
    assert commander.steps == list(range(summary["steps"])), "no batch lost, none twice"
    assert replay(tmp_path, summary, stages) == summary["weights_sha256"]
    assert_nothing_left()
    assert [p.name for p in run.dir.rglob("*") if p.name.endswith(".tmp")] == []
