"""A process dies: the run ends with the weights of the run that was never disturbed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from scpl_ray.errors import StageError
from scpl_ray.job import Job
from scpl_ray.schedule import Evaluate, Snapshot
from tests.helpers import Action, Condition, at, run_job, until
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


def die(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def stage(number: int) -> Action:
    """SIGKILL for the process of a stage, also of one that is just leaving."""

    def act(job: Job) -> None:
        members = job._running.members.all()  # type: ignore[attr-defined]
        die(next(m for m in members if m.spec.number == number).started.pid)

    return act


def actors(kind: str) -> list[psutil.Process]:
    """Processes of an actor class of this test's Ray, the oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(f"ray::{kind}"):
                found.append(process)
    return sorted(found, key=lambda p: p.create_time())


def actor(kind: str) -> Action:
    """SIGKILL for the newest process of an actor class, as soon as it is there."""
    return lambda job: die(until(lambda: actors(kind), f"a {kind}")[-1].pid)


def spare(job: Job) -> None:
    """SIGKILL for the process that waits for a stage to die."""
    holder = job._running.members.spare  # type: ignore[attr-defined]
    die(until(lambda: holder._ready and ray.get(holder._ready)[0], "a spare"))


def starting(number: int) -> Condition:
    """The process of a stage that is to join is under way."""

    def there(job: Job, now: int) -> bool:
        views = job.control.views()
        return any(v["kind"] == "grow" and v["state"] == "starting" for v in views)

    return there


def under_way(kind: type, after: int) -> Condition:
    """Work of this kind is in flight."""

    def there(job: Job, now: int) -> bool:
        flying = job._running.chain.flying  # type: ignore[attr-defined]
        return now >= after and any(isinstance(f.work, kind) for f in flying)

    return there


def leaving(job: Job, now: int) -> bool:
    """A stage has been told to leave and has work before that."""
    return bool(job._running.members._leaving)  # type: ignore[attr-defined]


def check(tmp_path: Path, undisturbed: list[str], script: list[tuple[Condition, Action]]) -> Any:
    run, commander = run_job(tree_of(tmp_path, "killed"), script)
    print("\n".join(commander.lines))
    assert run.summary["weights_sha256"] == undisturbed
    assert commander.steps == list(range(STEPS)), "no batch lost, none twice"
    assert_nothing_left()
    assert not (run.dir / "checkpoints").exists()
    return run.summary, commander


def test_each_stage_in_turn(tmp_path: Path, undisturbed: list[str]) -> None:
    """Before any snapshot, at an epoch's end, again at once, in a snapshot, before the end."""
    script = [
        (at(5), stage(1)),
        (under_way(Evaluate, 15), stage(2)),
        (at(30), stage(2)),
        (under_way(Snapshot, 60), stage(3)),
        (at(100), stage(1)),
    ]
    summary, _ = check(tmp_path, undisturbed, script)
    assert [f["who"] for f in summary["failures"]] == [
        "stage 1",
        "stage 2",
        "stage 2",
        "stage 3",
        "stage 1",
    ]
    assert all(f["seconds"] > 0 for f in summary["failures"])
    assert 5 <= summary["failures"][0]["step"] <= 14


def test_stages_that_train_end_to_end_go_back_together(tmp_path: Path) -> None:
    def tree(name: str, **more: Any) -> dict[str, Any]:
        own = tree_of(tmp_path, name, **more)
        own["method"] = "bp"
        own["train"] = own["train"] | {"epochs": 6}
        del own["elastic"]
        return own

    alone = tree("local", pipeline={"engine": "local"}, fault_tolerance={"enabled": False})
    wanted, _ = run_job(alone)
    script = [(at(5), stage(2)), (at(25), stage(1)), (at(40), actor("DataActor"))]
    run, _ = run_job(tree("killed", pipeline={"in_flight": 3}), script)
    assert run.summary["weights_sha256"] == wanted.summary["weights_sha256"]
    assert [f["who"] for f in run.summary["failures"]] == ["stage 2", "stage 1", "the data process"]


def test_several_at_once(tmp_path: Path, undisturbed: list[str]) -> None:
    def all_of_them(job: Job) -> None:
        stage(1)(job)
        stage(2)(job)
        actor("DataActor")(job)
        actor("Mailbox")(job)

    # The last: what a leaving stage still has to do comes from one that dies.
    script = [(at(20), all_of_them), (at(70), stage(3)), (at(70), stage(2)), (leaving, stage(2))]
    summary, _ = check(tmp_path, undisturbed, script)
    assert {"stage 1", "stage 2", "the data process"} <= {f["who"] for f in summary["failures"]}


def test_those_beside_the_stages(tmp_path: Path, undisturbed: list[str]) -> None:
    """Data process, spare, mailbox, and the process of those that have left."""
    script = [
        (at(10), actor("DataActor")),
        (at(12), spare),
        (at(25), stage(1)),
        (at(95), actor("ParkedActor")),
    ]
    summary, _ = check(tmp_path, undisturbed, script)
    who = [f["who"] for f in summary["failures"]]
    assert "the data process" in who
    assert "the process of the stages that have left" in who


def test_a_stage_that_is_about_to_join_or_to_leave(tmp_path: Path, undisturbed: list[str]) -> None:
    script = [(starting(3), actor("StageActor")), (leaving, stage(3))]
    summary, _ = check(tmp_path, undisturbed, script)
    assert summary["grown"][0]["step"] == 40 and summary["shrunk"][0]["step"] == 90
    assert summary["given_up"] == []


def test_while_it_is_judged(tmp_path: Path, undisturbed: list[str]) -> None:
    """After the last step: the weights of the best epoch are back, the splits are looked at."""

    def last(job: Job) -> None:
        restore = job.training.final

        def final(*args: Any) -> Any:
            stage(2)(job)
            stage(1)(job)
            return restore(*args)

        job.training.final = final  # type: ignore[method-assign]

    check(tmp_path, undisturbed, [(at(110), last)])


def test_a_stage_that_is_only_slow(tmp_path: Path, undisturbed: list[str]) -> None:
    """It is stopped (SIGSTOP), taken for dead, replaced, and awakes: nothing comes twice."""
    stopped: list[int] = []

    def freeze(job: Job) -> None:
        members = job._running.members.live  # type: ignore[attr-defined]
        started = members[1].started
        # Another machine's process could not be killed from here.
        members[1].started = None
        stopped.append(started.pid)
        os.kill(started.pid, signal.SIGSTOP)

    def awake(job: Job) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped[0], signal.SIGCONT)

    tree = tree_of(tmp_path, "killed")
    tree["pipeline"] = {"step_timeout_s": 4}
    tree["elastic"] = {}
    run, commander = run_job(tree, [(at(20), freeze), (at(40), awake)])
    plain = tree | {"name": "plain", "pipeline": {"engine": "local"}}
    assert run.summary["weights_sha256"] == run_job(plain)[0].summary["weights_sha256"]
    assert commander.steps == list(range(STEPS))
    (failure,) = run.summary["failures"]
    assert "did not finish" in failure["cause"]


def test_the_same_batch_every_time(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, "deadly", elastic={})
    tree["model"] = {"factory": f"{LAYERS}:failing_again", "options": {"step": 7, "how": "die"}}
    tree["stages"] = [1, 1, 1]
    with pytest.raises(StageError) as caught:
        run_job(tree)
    said = str(caught.value)
    assert (caught.value.stage, caught.value.step) == (2, 7)
    assert "died 3 times at this batch" in said
    assert "--engine local --from-step 7" in said


def test_the_budget_of_a_run(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, "budget")
    tree["fault_tolerance"] |= {"max_failures": 1}
    script = [(at(10), stage(1)), (at(30), stage(2))]
    with pytest.raises(StageError, match=r"2 processes of this run have died .*max_failures = 1"):
        run_job(tree, script)
    summary = (tmp_path / "budget" / "summary.json").read_text()
    assert '"failed"' in summary
    assert (tmp_path / "budget" / "checkpoints").is_dir(), "what --resume goes on from"


def test_without_fault_tolerance_a_death_ends_the_run(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, "off", fault_tolerance={"enabled": False})
    with pytest.raises(StageError, match=r"enabled is false"):
        run_job(tree, [(at(10), stage(1))])
