"""A process dies: the run ends with the weights of the run that was never disturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.job import Job
from tests.helpers import Action, Condition, at, run_job
from tests.ray.test_growth import assert_nothing_left

pytestmark = pytest.mark.usefixtures("ray_instance")
LAYERS = "tests.ray.layers_for_tests"
STEPS = 120


def tree_of(out: Path, name: str, **more: Any) -> dict[str, Any]:
    """Two stages, joined by a third and left by it, with evaluation and `select: best`."""
    return {
        "name": name,
        "data": {"source": "digits", "limit": 300},
        "model": {"factory": f"{LAYERS}:growing", "options": {"sleep_s": 0.01}},
        "stages": [1, 1],
        "train": {"epochs": 12, "batch_size": 32, "select": "best"},
        "optimizer": {"name": "adamw"},
        "resources": {"threads": 1, "device": "cpu"},
        "output": {"dir": str(out), "tensorboard": False},
        "elastic": {"grow_at": {"step": [40]}, "shrink_at": {"step": [90]}},
        "fault_tolerance": {"snapshot_every_steps": 15, "checkpoint_every_steps": 30},
    } | more


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("undisturbed")
    tree = tree_of(out, "local", pipeline={"engine": "local"})
    tree["fault_tolerance"] = {"enabled": False}
    tree["model"]["options"] = {"sleep_s": 0.0}
    run, commander = run_job(tree)
    assert len(commander.steps) == STEPS
    return list(run.summary["weights_sha256"])


def kill_stage(number: int) -> Action:
    """SIGKILL for the process of a stage."""

    def act(job: Job) -> None:
        members = job._running.members.all()
        member = next(m for m in members if m.spec.number == number)
        os.kill(member.started.pid, signal.SIGKILL)

    return act


def check(tmp_path: Path, undisturbed: list[str], script: list[tuple[Condition, Action]]) -> Any:
    run, commander = run_job(tree_of(tmp_path, "killed"), script)
    print("\n".join(commander.lines))
    assert run.summary["weights_sha256"] == undisturbed
    assert commander.steps == list(range(STEPS)), "no batch lost, none twice"
    assert_nothing_left()
    return run.summary, commander


@pytest.mark.parametrize("number", [1, 2])
def test_a_stage(number: int, tmp_path: Path, undisturbed: list[str]) -> None:
    summary, _ = check(tmp_path, undisturbed, [(at(33), kill_stage(number))])
    (failure,) = summary["failures"]
    assert failure["who"] == f"stage {number}"
    assert 30 <= failure["step"] <= 45
