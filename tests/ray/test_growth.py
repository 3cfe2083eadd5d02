"""Stages join and leave a job on Ray: exact, without a batch lost, whatever the new stage does."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import list_named_actors, placement_group_table

from scpl_ray.engine.base import Ask
from scpl_ray.job import Job
from scpl_ray.jobs.mailbox import NAMESPACE, PREFIX
from tests.helpers import at, ended, grow, run_job, shrink, small_config, stop, until

pytestmark = pytest.mark.usefixtures("ray_instance")
LAYERS = "tests.ray.layers_for_tests"


def growing(tmp_path: Path, name: str, kind: str = "sound", **changes: Any) -> dict[str, Any]:
    tree = small_config(Path("unused"), tmp_path, name=name, **changes)
    tree["data"] = {"source": "digits"}
    options = {"kind": kind, "sleep_s": 0.005}
    tree["model"] = {"factory": f"{LAYERS}:growing", "options": options}
    tree["train"] |= {"epochs": 2000}
    return tree


def assert_nothing_left() -> None:
    assert list_named_actors(all_namespaces=True) == []
    groups = placement_group_table().values()
    assert [g for g in groups if g["state"] != "REMOVED"] == []
    until(lambda: ray.available_resources().get("CPU") == 8, "the cores come back", 10)


def alone(tmp_path: Path, steps: int, stages: list[int]) -> list[str]:
    """Digests of the same stages that never grew, stopped at the same step, in one process."""
    tree = growing(tmp_path, "alone", stages=stages)
    tree["model"]["options"]["sleep_s"] = 0.0
    tree["pipeline"] = {"engine": "local"}
    run, _ = run_job(tree, [(at(steps - 1), stop)])
    assert run.summary["steps"] == steps
    return list(run.summary["weights_sha256"])


def test_planned_growth_is_that_of_one_process(texts: Path, tmp_path: Path) -> None:
    results = []
    for engine in ("local", "ray"):
        tree = small_config(texts, tmp_path, name=engine, train__epochs=7)
        tree["elastic"] = {
            "start_stages": 2,
            "grow_at": {"epoch": [1, 2], "step": [9, 25]},
            "shrink_at": {"epoch": [4, 5]},
        }
        tree["pipeline"] = {"engine": engine}
        tree["method"] = "scpl"
        run, _ = run_job(tree)
        summary = run.summary
        assert [g["stage"] for g in summary["grown"]] == [3, 4, 5, 4]
        assert [g["step"] for g in summary["grown"]] == [4, 8, 9, 25]
        assert [g["returned"] for g in summary["grown"]] == [False, False, False, True]
        assert [(s["stage"], s["step"]) for s in summary["shrunk"]] == [(5, 16), (4, 20)]
        results.append((summary["weights_sha256"], summary["exits"]))
    assert results[0] == results[1]
    assert_nothing_left()


def test_best_epoch_is_of_the_stages_of_now(texts: Path, tmp_path: Path) -> None:
    results = []
    for engine in ("local", "ray"):
        tree = small_config(texts, tmp_path, name=engine, train__epochs=5, train__select="best")
        tree["elastic"] = {"start_stages": 2, "grow_at": {"epoch": [3]}}
        tree["pipeline"] = {"engine": engine}
        run, _ = run_job(tree)
        assert run.summary["selected_epoch"] > 3
        results.append(run.summary["weights_sha256"])
    assert results[0] == results[1]


def test_commands_change_nothing_for_the_others(tmp_path: Path) -> None:
    script = [(at(5), grow()), (ended(1), grow()), (ended(2), shrink()), (ended(3), stop)]
    tree = growing(tmp_path, "commands", stages=2)
    run, commander = run_job(tree, script)
    summary = run.summary
    assert summary["status"] == "stopped"
    assert [g["stage"] for g in summary["grown"]] == [3, 4]
    assert all(g["step"] > 5 and g["by"] == "command" for g in summary["grown"])
    assert [s["stage"] for s in summary["shrunk"]] == [4]
    assert commander.steps == list(range(summary["steps"])), "no batch lost, none twice"
    assert summary["weights_sha256"][:2] == alone(tmp_path, summary["steps"], [1, 1])
    assert summary["stages"] == [["first"], ["second"], ["tail.1"], ["tail.2"]]
    for grown in summary["grown"]:
        parts = {"queue", "scheduling", "process", "imports", "build", "boundary", "total"}
        seconds = dict(grown["seconds"])
        assert set(seconds) == parts
        assert seconds.pop("total") == pytest.approx(sum(seconds.values()), abs=0.05)
    assert_nothing_left()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cannot_build", "no such layer can be built"),
        ("fails_soon", "a broken layer"),
        ("dies_soon", "ended unexpectedly"),
        ("nan_soon", "the loss is nan"),
    ],
)
def test_a_new_stage_that_fails_is_taken_out(kind: str, words: str, tmp_path: Path) -> None:
    def failed(job: Job, step: int) -> bool:
        return job.control.views()[-1]["state"] == "failed"

    tree = growing(tmp_path, kind, kind, stages=[2])
    run, commander = run_job(tree, [(at(5), grow()), (failed, stop)])
    summary = run.summary
    assert summary["status"] == "stopped" and summary["grown"] == []
    assert [(g["state"], g["stage"]) for g in summary["given_up"]] == [("failed", 2)]
    assert words in summary["given_up"][0]["text"]
    assert any("the job goes on as it was" in line for line in commander.lines)
    assert commander.steps == list(range(summary["steps"]))
    assert summary["weights_sha256"] == alone(tmp_path, summary["steps"], [2])
    assert_nothing_left()


def test_a_demand_that_is_not_met_is_pending_then_given_up(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    tree = growing(tmp_path, "pending", stages=[2])

    def look(job: Job) -> None:
        seen.append(job.control.views()[-1])

    asked = (at(5), grow(ask=Ask(num_cpus=99), timeout_s=3))
    run, commander = run_job(tree, [asked, (at(25), look), (ended(1), stop)])
    assert seen[0]["state"] == "pending"
    assert "CPU: 99 asked" in seen[0]["text"] and "8 in all" in seen[0]["text"]
    given_up = run.summary["given_up"][0]
    assert given_up["state"] == "given up" and "pending after 3 s" in given_up["text"]
    assert commander.steps == list(range(run.summary["steps"]))
    assert_nothing_left()


def test_stop_while_a_stage_starts(tmp_path: Path) -> None:
    script = [(at(5), grow()), (at(7), grow()), (at(12), stop)]
    run, _ = run_job(growing(tmp_path, "both", "slow_start", stages=[2]), script)
    assert run.summary["status"] == "stopped" and run.summary["grown"] == []
    assert [g["state"] for g in run.summary["given_up"]] == ["withdrawn", "withdrawn"]
    assert_nothing_left()


def test_growth_by_need_says_why(texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, name="need", stages=[2, 2], train__epochs=4000)
    tree["elastic"] = {
        "grow_when": {"exit_accuracy_plateau": {"epochs": 2, "min_delta": 0.9}, "max_stages": 3}
    }

    def full(job: Job, step: int) -> bool:
        return any("3 stages are max_stages" in line for line in job.board.log.lines)

    run, commander = run_job(tree, [(full, stop)])
    (grown,) = run.summary["grown"]
    assert grown["by"] == "policy" and "the last exit gained" in grown["reason"]
    assert grown["layers"] == ["encoder.4"]
    said = [line for line in commander.lines if line.startswith("growth by need")]
    assert "no: 1 epochs with these stages" in said[0]
    assert any("yes: the last exit gained" in line for line in said)
    assert "3 stages are max_stages" in said[-1]


def test_a_killed_mailbox_comes_back_and_takes_commands(tmp_path: Path) -> None:
    from scpl_ray.jobs.client import Reached, new_command

    notes: dict[str, Any] = {}

    def kill(job: Job) -> None:
        mailbox = ray.get_actor(PREFIX + job.board.record.id, namespace=NAMESPACE)
        os.kill(_pid(mailbox), signal.SIGKILL)

    def ask(job: Job) -> None:
        def go() -> None:
            reached = Reached(job.board.record)
            notes["views"] = list(reached.ask([new_command("grow")], 60))
            reached.send(new_command("stop"))

        notes["thread"] = threading.Thread(target=go)
        notes["thread"].start()

    run, _ = run_job(growing(tmp_path, "mailbox", stages=[2]), [(at(5), kill), (at(10), ask)])
    notes["thread"].join(5)
    assert notes["views"][-1]["state"] == "done"
    assert run.summary["status"] == "stopped"
    assert [g["stage"] for g in run.summary["grown"]] == [2]


def _pid(actor: Any) -> int:
    def pid(self: Any) -> int:
        return os.getpid()

    return int(ray.get(actor.__ray_call__.remote(pid), timeout=5))
