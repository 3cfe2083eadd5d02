from __future__ import annotations

import pytest

from scpl_ray.engine.base import Ask, Go, Progress
from scpl_ray.schedule import Evaluate, Stash
from scpl_ray.stage_facts import StageSpec
from tests.unit.elastic_layers import Job

# --- commands: growing ---------------------------------------------------------------------------


def test_a_growth_joins_once_at_the_first_boundary_after_it_is_ready() -> None:
    job = Job().begin()
    request = job.ask("grow", ask=Ask(0.5, 1))
    assert (request.state, request.stage, job.engine.asks) == ("starting", 4, [Ask(0.5, 1)])
    assert job.engine.made[0].spec == StageSpec(4, ("encoder.3",), True)
    assert [job.at(0), job.at(1)] == [Go.ON, Go.ON]
    assert job.engine.joined == []
    job.ready()
    job.control.advance()
    assert (request.state, job.engine.joined) == ("ready", [])
    assert job.layers[-1] == "encoder.2"
    assert [job.at(2), job.at(2), job.at(3)] == [Go.ON] * 3
    assert job.engine.joined == [(4, 2)]
    assert (request.state, request.step, job.changed, len(job.engine.made)) == ("joined", 2, [4], 1)
    assert job.layers[-1] == "encoder.3"


def test_a_growth_is_done_when_its_first_batch_is_through() -> None:
    job = Job().begin()
    request = job.grown(4, reason="why")
    job.trained(3)  # of a stage 4 that has left since: still on its way
    assert request.state == "joined"
    job.trained(4)
    assert request.state == "done"
    assert request.text.startswith("stage 4 joined at step 4; its first batch was through ")
    assert list(request.seconds) == ["queue", "build", "boundary", "total"]
    record = job.control.changes.grown[0]
    assert (record["stage"], record["layers"], record["step"]) == (4, ["encoder.3"], 4)
    assert (record["epoch"], record["by"], record["reason"]) == (1, "command", "why")
    assert (record["returned"], list(record["seconds"])) == (False, list(request.seconds))
    said = list(job.said)
    job.trained(5)
    assert job.said == said


def test_growths_queue() -> None:
    job = Job().begin()
    for name in "abc":
        job.ask("grow", name)
    assert [job.state(n) for n in "abc"] == ["starting", "queued", "queued"]
    job.ready()
    assert job.at(1) is Go.ON
    job.at(2)
    assert [job.state(n) for n in "abc"] == ["joined", "starting", "queued"]
    job.ready()
    job.at(3)
    job.at(4)
    job.ready()
    job.at(5)
    assert job.engine.joined == [(4, 1), (5, 3), (6, 5)]
    assert [c.spec.layers[0] for c in job.engine.made] == ["encoder.3", "encoder.4", "encoder.5"]


def test_the_same_request_sent_twice_is_done_once() -> None:
    job = Job().begin()
    job.ask("grow", "a")
    assert job.ask("grow", "a").state == "queued"
    for step in range(1, 4):
        job.ready()
        job.at(step)
        job.ask("grow", "a")
    assert (job.engine.joined, len(job.engine.made)) == ([(4, 1)], 1)
    assert len(job.control.views()) == 1


def test_a_growth_with_layers_of_its_own() -> None:
    job = Job().begin()
    job.grown(1, layers=2, change={"heads": 4})
    assert job.engine.specs[-1].layers == ("encoder.3", "encoder.4")
    assert job.control.config.model.grown[0].change == {"heads": 4}


def test_the_pattern_does_not_go_on_after_layers_of_a_factory() -> None:
    job = Job().begin()
    job.grown(1, change={"factory": "tests.unit.elastic_layers:one"})
    request = job.ask("grow", "g2")
    assert request.state == "refused" and "came from a factory" in request.text
    assert [s.layers for s in job.engine.specs[3:]] == [("own",)]


@pytest.mark.parametrize("parked", [True, False])
def test_a_next_stage_that_exists_has_its_layers_already(parked: bool) -> None:
    job = Job().begin() if parked else Job(3, cut=4).begin()
    if parked:
        job.ask("shrink", "s")
        job.at(1)
    for more in ({"layers": 1}, {"change": {"heads": 4}}):
        request = job.ask("grow", f"g-{more}", **more)
        assert request.state == "refused"
        assert "leave --layers and --layer-config out" in request.text
    job.grown(2)
    assert job.engine.specs[2 if parked else 3].layers == (f"encoder.{2 if parked else 3}",)
    assert job.control.config.model.grown == []


def test_a_layer_config_that_is_not_accepted_is_refused() -> None:
    job = Job().begin()
    request = job.ask("grow", change={"headz": 4})
    assert (request.state, job.engine.made) == ("refused", [])
    assert "Did you mean 'heads'?" in request.text
    assert job.at(1) is Go.ON


# --- commands: when ------------------------------------------------------------------------------


def test_not_before_is_the_earliest_step_and_never_waits() -> None:
    job = Job().begin()
    early = job.ask("grow", "early", not_before=5)
    job.ready()
    assert [job.at(s) for s in range(5)] == [Go.ON] * 5
    assert (early.state, early.text) == ("ready", "it joins at step 5")
    job.at(5)
    assert job.engine.joined == [(4, 5)]
    job.ask("grow", "late", not_before=8)
    assert [job.at(s) for s in range(6, 10)] == [Go.ON] * 4
    assert job.engine.joined == [(4, 5)]
    job.ready()
    job.at(10)
    assert job.engine.joined == [(4, 5), (5, 10)]


@pytest.mark.parametrize("kind", ["grow", "shrink"])
@pytest.mark.parametrize(
    ("more", "ahead"),
    [
        ({"not_before": 6}, False),
        ({"not_before": 7}, False),
        ({"not_before": 8}, True),
        ({"not_before": 29}, True),
        ({"not_before": 30}, False),
        ({"at_epoch": 1}, True),
        ({"at_epoch": 2}, True),
        ({"at_epoch": 3}, False),
    ],
)
def test_a_step_that_is_not_ahead_is_refused(kind: str, more: dict[str, int], ahead: bool) -> None:
    job = Job().begin()
    job.at(7)
    request = job.ask(kind, **more)
    step = more.get("not_before", 10 * more.get("at_epoch", 0))
    assert request.not_before == step
    assert (request.state == "refused") is not ahead
    if not ahead:
        words = f"step {step} is not ahead: the job is at step 7 of 30 (10 an epoch)"
        assert request.text == words
        assert job.engine.made == []


def test_at_epoch_is_the_first_step_after_so_many_epochs() -> None:
    job = Job().begin()
    job.ask("shrink", at_epoch=1)
    job.at(9)
    assert len(job.engine.specs) == 3
    job.at(10)
    assert len(job.engine.specs) == 2
    assert job.control.changes.shrunk[0]["epoch"] == 2


def test_only_training_has_boundaries() -> None:
    job = Job().begin()
    job.ask("grow")
    job.ready()
    assert job.control.boundary(Evaluate("validation", 0, 0, True)) is Go.ON
    assert job.control.boundary(Stash(0)) is Go.ON
    assert job.engine.joined == []


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_a_stage_that_does_not_start_in_time_is_given_up(exact: bool) -> None:
    job = Job(**({"grow_at": {"step": [3]}, "timeout_s": 9} if exact else {"timeout_s": 9})).begin()
    if not exact:
        job.ask("grow", "plan-1", timeout_s=9)
    job.at(2)
    (request,) = job.control._wishes.queue
    assert request.started_at is not None
    request.started_at -= 8
    assert job.at(3) is (Go.WAIT if exact else Go.ON)
    assert request.state == "starting"
    request.started_at -= 2
    assert job.at(3) is Go.ON
    assert request.state == "given up"
    assert request.text == "stage 4 was still starting after 9 s: layers"
    assert job.engine.made[0].cancelled
    assert job.given_up == [("grow", "given up")]
    assert job.said == [f"growth given up: {request.text}; the job goes on as it was"]
    assert (len(job.engine.specs), job.layers[-1]) == (3, "encoder.2")
    assert len(job.engine.made) == 1


def test_a_start_that_fails_leaves_the_job_as_it_was() -> None:
    job = Job().begin()
    job.engine.problem = "no such node"
    request = job.ask("grow", "a")
    assert (request.state, request.text) == (
        "failed",
        "a stage could not be started: no such node",
    )
    job.engine.problem = ""
    second, third = job.ask("grow", "b"), job.ask("grow", "c")
    job.engine.made[0].says = Progress("failed", "out of memory")
    assert job.at(1) is Go.ON
    assert (second.state, second.text) == ("failed", "stage 4: out of memory")
    assert job.engine.made[0].cancelled
    assert third.state == "starting"
    assert job.given_up == [("grow", "failed")] * 2
    job.ready()
    job.at(2)
    assert job.engine.joined == [(4, 2)]


def test_a_lost_stage_takes_its_layers_with_it() -> None:
    job = Job().begin()
    request = job.grown(2)
    job.trained(2)
    job.lose(4, 3)
    assert (request.state, request.text) == ("failed", "stage 4 was taken out: broken layer")
    assert job.layers[-1] == "encoder.2"
    assert job.control.changes.grown == []
    assert job.given_up == [("grow", "failed")]
    assert job.changed == [4, 3]
    job.grown(5)
    assert job.engine.specs[-1] == StageSpec(4, ("encoder.3",), True)


def test_two_stages_lost_at_once() -> None:
    job = Job().begin()
    job.grown(2)
    job.grown(3, layers=2)
    assert job.layers[-1] == "encoder.5"
    job.lose(4, 4)
    assert job.layers[-1] == "encoder.2"
    assert job.control.config.model.grown == []
    assert job.given_up == [("grow", "failed")] * 2
    assert job.changed == [4, 5, 3]
    job.grown(5)
    assert job.engine.specs[-1] == StageSpec(4, ("encoder.3",), True)


def test_lost_stages_of_the_configs_cut_may_join_again() -> None:
    job = Job(2, cut=4).begin()
    job.grown(2)
    job.grown(3)
    job.grown(4)
    assert [s.layers[0] for s in job.engine.specs[2:]] == ["encoder.2", "encoder.3", "encoder.4"]
    job.lose(3, 5)
    assert job.layers[-1] == "encoder.3"
    for step in (6, 7, 8):
        job.grown(step)
    assert [s.layers[0] for s in job.engine.specs[2:]] == ["encoder.2", "encoder.3", "encoder.4"]
    assert [s.number for s in job.engine.specs] == [1, 2, 3, 4, 5]


def test_a_stage_that_starts_behind_a_lost_one_starts_anew() -> None:
    job = Job().begin()
    job.grown(2)
    waits = job.ask("grow", "next")
    assert waits.stage == 5
    job.lose(4, 3)
    assert job.engine.made[1].cancelled
    assert (waits.state, waits.text) == ("queued", "behind a stage that failed")
    job.at(4)
    assert (waits.state, waits.stage) == ("starting", 4)
    assert job.engine.made[2].spec.layers == ("encoder.3",)


def test_a_returned_stage_that_is_lost_keeps_the_config() -> None:
    job = Job().begin()
    job.grown(2)
    job.ask("shrink", "s")
    job.at(3)
    job.grown(4)
    assert [r["returned"] for r in job.control.changes.grown] == [False, True]
    job.lose(4, 5, back=True)
    assert job.layers[-1] == "encoder.3"
    assert [r["returned"] for r in job.control.changes.grown] == [False]


# --- commands: shrinking -------------------------------------------------------------------------


def test_the_last_stage_leaves_at_the_next_boundary() -> None:
    job = Job().begin()
    request = job.ask("shrink")
    assert (request.state, len(job.engine.specs)) == ("queued", 3)
    assert job.at(4) is Go.ON
    assert (request.state, request.stage, request.step) == ("done", 3, 4)
    assert request.text == "stage 3 left before step 4"
    assert [s.number for s in job.engine.parked] == [3]
    assert job.control.changes.shrunk[0]["layers"] == ["encoder.2"]
    assert (job.changed, job.engine.freed) == ([2], [])
    job.at(4)
    job.at(5)
    assert (job.engine.freed, len(job.engine.specs)) == ([3], 2)


@pytest.mark.parametrize("ready", [False, True])
def test_a_shrink_takes_back_the_latest_growth_that_has_not_joined(ready: bool) -> None:
    job = Job().begin()
    first, second = job.ask("grow", "a"), job.ask("grow", "b")
    if ready:
        job.ready()
        job.control.advance()
    back = job.ask("shrink", "c")
    assert (back.state, back.text) == ("done", "took back a growth that had not joined yet")
    assert (first.state, second.state) == ("ready" if ready else "starting", "withdrawn")
    assert not job.engine.made[0].cancelled
    job.ask("shrink", "d")
    assert (first.state, first.text) == ("withdrawn", "taken back by a shrink")
    assert job.engine.made[0].cancelled
    for step in range(1, 4):
        job.at(step)
    assert (len(job.engine.specs), job.engine.joined, job.engine.freed) == (3, [], [])
    assert job.given_up == [("grow", "withdrawn")] * 2
    job.ask("shrink", "e")
    job.at(4)
    assert len(job.engine.specs) == 2


def test_a_later_shrink_takes_nothing_back() -> None:
    job = Job().begin()
    growth, shrink = job.ask("grow", "a"), job.ask("shrink", "b", not_before=3)
    assert (growth.state, shrink.state) == ("starting", "queued")
    job.ready()
    assert [job.at(s) for s in (1, 2)] == [Go.ON] * 2
    assert len(job.engine.specs) == 4
    job.at(3)
    assert (len(job.engine.specs), shrink.stage) == (3, 4)


def test_the_last_stage_stays() -> None:
    job = Job(1, cut=2).begin()
    request = job.ask("shrink")
    assert request.state == "refused"
    assert request.text == "one stage is left; a job needs it (stop ends the job)"
    assert job.at(1) is Go.ON
    assert len(job.engine.specs) == 1


def test_shrinks_that_are_queued_count() -> None:
    job = Job(3).begin()
    states = [job.ask("shrink", name).state for name in "abc"]
    assert states == ["queued", "queued", "refused"]
    job.at(1)
    assert len(job.engine.specs) == 1
    assert job.ask("shrink", "d").state == "refused"
    job.grown(2)
    assert job.ask("shrink", "e").state == "queued"


def test_a_growth_that_starts_goes_behind_a_stage_that_leaves() -> None:
    job = Job().begin()
    job.ask("shrink", "s", not_before=2)
    growth = job.ask("grow", "g", not_before=5)
    assert growth.stage == 4
    job.ready()
    job.at(2)
    assert job.engine.made[0].cancelled
    assert (growth.state, growth.text) == ("queued", "behind a stage that leaves")
    job.at(3)
    assert job.engine.made[1].spec == StageSpec(3, ("encoder.2",), True)
    job.ready()
    job.at(5)
    assert job.engine.joined == [(3, 5)]
    assert job.engine.parked == []


def test_a_growth_that_is_not_ready_does_not_hold_a_shrink_up() -> None:
    job = Job().begin()
    job.ask("grow", "a")
    job.ask("shrink", "b", not_before=3)
    job.at(3)
    assert len(job.engine.specs) == 2


# --- before and after training -------------------------------------------------------------------


def test_commands_before_training_are_kept() -> None:
    job = Job()
    growth, shrink = job.ask("grow", "a", at_epoch=1), job.ask("shrink", "b", not_before=2)
    gone = job.ask("grow", "c", not_before=30)
    assert [r.state for r in (growth, shrink, gone)] == ["queued"] * 3
    assert growth.text == "training has not begun"
    job.control.advance()
    assert job.engine.made == []
    job.begin()
    assert gone.state == "refused"
    assert growth.not_before == 10
    for step in range(10):
        job.at(step)
    assert (len(job.engine.specs), job.engine.parked[0].number) == (2, 3)
    job.ready()
    job.at(10)
    assert job.engine.joined == [(3, 10)]


def test_a_growth_before_training_is_taken_back_by_a_shrink() -> None:
    job = Job()
    growth, shrink = job.ask("grow", "a"), job.ask("shrink", "b")
    job.begin()
    assert (growth.state, shrink.state) == ("withdrawn", "done")
    job.at(0)
    assert (len(job.engine.specs), job.engine.made) == (3, [])


def test_a_shrink_before_training_takes_back_no_later_growth() -> None:
    job = Job()
    job.ask("shrink", "a"), job.ask("grow", "b")
    job.begin()
    job.at(0)
    job.at(1)
    assert job.state("b") == "starting"


def test_an_early_request_that_waits_does_not_say_that_training_has_not_begun() -> None:
    job = Job()
    growth = job.ask("grow", "a", not_before=25)
    job.begin()
    job.at(1)
    assert growth.state == "queued"
    assert growth.text != "training has not begun"


@pytest.mark.parametrize("how", ["stop", "finish"])
def test_nothing_joins_after_the_end(how: str) -> None:
    job = Job(shrink_at={"step": [9]}).begin()
    growth, queued = job.ask("grow", "a"), job.ask("grow", "b")
    job.ready()
    getattr(job.control, how)()
    assert (growth.state, queued.state) == ("withdrawn", "withdrawn")
    assert growth.text == {"stop": "the job stops", "finish": "training has ended"}[how]
    assert job.engine.made[0].cancelled
    assert job.state("plan-1") == "withdrawn"
    assert job.control.stopping is (how == "stop")
    if how == "stop":
        assert job.at(9) is Go.STOP
        # An evaluation that has begun is finished: a resume has what it says.
        assert job.control.boundary(Evaluate("validation", 0, 0, True)) is Go.ON
    job.control.advance()
    late = job.ask("grow", "c")
    assert (late.state, len(job.engine.made)) == ("refused", 1)
    assert late.text == "the training of this job has ended, or ends now"
    assert (job.engine.joined, len(job.engine.specs)) == ([], 3)


def test_stop_before_training() -> None:
    job = Job()
    early = job.ask("grow")
    job.control.stop()
    assert early.state == "withdrawn"
    job.begin()
    assert job.at(0) is Go.STOP
    assert job.engine.made == []
