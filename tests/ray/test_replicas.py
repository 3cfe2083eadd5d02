"""Replicas of a stage: the weights of one process that does the same rounds, whatever dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import load_config
from scpl_ray.job import Job
from scpl_ray.report import Reporter
from scpl_ray.start import Start
from tests.helpers import at, run_job, small_config
from tests.ray.test_growth import assert_nothing_left
from tests.ray.test_recovery import die

pytestmark = pytest.mark.usefixtures("ray_instance")


def tree_of(texts: Path, out: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Three stages of which two have replicas; 4 steps an epoch, so that rounds of 3 are cut."""
    changes.setdefault("replicas", {2: 3, 3: 2})
    tree = small_config(texts, out, stages=3, train__epochs=6, **changes)
    tree["name"] = name
    tree["fault_tolerance"] = {"snapshot_every_steps": 3, "checkpoint_every_steps": 4}
    return tree


def local(texts: Path, out: Path, **changes: Any) -> list[str]:
    tree = tree_of(texts, out, "local", pipeline__engine="local", **changes)
    run, commander = run_job(tree)
    assert commander.steps == list(range(24))
    return list(run.summary["weights_sha256"])


@pytest.mark.parametrize(
    "changes",
    [
        {"train__select": "best", "optimizer__name": "sgd", "optimizer__schedule": "cosine"},
        {"replicas": {1: 2}, "local__projection_head__kind": "mlp_bn", "pipeline__in_flight": 1},
    ],
)
def test_replicas_give_what_one_process_gives(
    texts: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run, commander = run_job(tree_of(texts, tmp_path, "ray", **changes))
    assert commander.steps == list(range(24)), "no batch lost, none twice"
    in_flight = {k: v for k, v in changes.items() if k != "pipeline__in_flight"}
    assert run.summary["weights_sha256"] == local(texts, tmp_path, **in_flight)
    assert_nothing_left()


def test_rounds_change_what_is_learned(texts: Path, tmp_path: Path) -> None:
    alone = local(texts, tmp_path / "a", replicas={})
    rounds = local(texts, tmp_path / "b", replicas={2: 2})
    assert alone[0] == rounds[0], "the stage before it has no part in it"
    assert alone[1] != rounds[1] and alone[2] != rounds[2]


def test_replicas_die(texts: Path, tmp_path: Path) -> None:
    def kill(number: int, replica: int) -> Any:
        def act(job: Any) -> None:
            members = job._running.members.all()
            started = next(m for m in members if m.spec.number == number).started
            die(started.all[replica].pid)

        return act

    # The first replica of one stage, and, when that is back, the second of the other.
    script = [(at(6), kill(2, 0)), (at(14), kill(3, 1))]
    run, commander = run_job(tree_of(texts, tmp_path, "killed"), script)
    print("\n".join(commander.lines))
    assert commander.steps == list(range(24)), "no batch lost, none twice"
    assert run.summary["weights_sha256"] == local(texts, tmp_path)
    assert [failure["who"] for failure in run.summary["failures"]] == ["stage 2", "stage 3"]
    assert_nothing_left()


def test_a_stage_with_replicas_leaves_and_comes_back(texts: Path, tmp_path: Path) -> None:
    plan = {
        "elastic__shrink_at": {"step": [6]},
        "elastic__grow_at": {"step": [13]},
    }
    run, commander = run_job(tree_of(texts, tmp_path, "ray", **plan))
    print("\n".join(commander.lines))
    assert run.summary["weights_sha256"] == local(texts, tmp_path, **plan)
    # Changes wait for the end of a round: within an epoch of 4, rounds of 3 and 2 meet only there.
    assert [change["step"] for change in run.summary["grown"]] == [16]


def test_a_stopped_run_goes_on(texts: Path, tmp_path: Path) -> None:
    tree = tree_of(texts, tmp_path, "stopped")
    run, commander = run_job(tree, [(at(5), lambda job: job.control.stop())])
    steps = len(commander.steps)
    assert run.summary["status"] == "stopped" and steps % 4 == 0 and steps < 24
    rest = Job(Start(load_config(tree), resume=True), Reporter()).train()
    assert rest.summary["steps"] == 24
    assert rest.summary["weights_sha256"] == local(texts, tmp_path)
