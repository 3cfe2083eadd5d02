"""Replicas of a stage: the weights of one process that does the same rounds, whatever dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
        {"train__select": "best"},
        {"pipeline__in_flight": 1, "optimizer__name": "sgd", "optimizer__schedule": "cosine"},
        {"replicas": {1: 2}, "local__projection_head__kind": "mlp_bn", "method": "scpl"},
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


@pytest.mark.parametrize("who", [(2, 0), (2, 2), (3, 1), (1, 0)])
def test_a_replica_dies(texts: Path, tmp_path: Path, who: tuple[int, int]) -> None:
    number, replica = who

    def kill(job: Any) -> None:
        members = job._running.members.all()
        started = next(m for m in members if m.spec.number == number).started
        die(started.all[replica].pid)

    run, commander = run_job(tree_of(texts, tmp_path, "killed"), [(at(9), kill)])
    print("\n".join(commander.lines))
    assert commander.steps == list(range(24)), "no batch lost, none twice"
    assert run.summary["weights_sha256"] == local(texts, tmp_path)
    assert len(run.summary["failures"]) == 1
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


def test_stop_waits_for_the_end_of_a_round(texts: Path, tmp_path: Path) -> None:
    tree = tree_of(texts, tmp_path, "stopped")
    run, commander = run_job(tree, [(at(5), lambda job: job.control.stop())])
    steps = len(commander.steps)
    assert run.summary["status"] == "stopped" and steps % 4 == 0 and steps < 24
