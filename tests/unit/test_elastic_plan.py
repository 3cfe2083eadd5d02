from __future__ import annotations

from typing import Any

import pytest
from pytest import MonkeyPatch

from scpl_ray.config.running import ElasticConfig, GrowWhenConfig
from scpl_ray.elastic import plan
from scpl_ray.elastic.plan import (
    Decision,
    Pace,
    Planned,
    decide,
    first_impossible,
    most_stages,
    planned_changes,
)
from scpl_ray.elastic.request import ENDED, Request, request_of
from scpl_ray.engine.base import Ask, Go, Progress
from tests.unit.elastic_layers import Job


def changes(text: str) -> list[Planned]:
    """ "+5 -7": a stage joins before step 5, one leaves before step 7."""
    return [Planned(int(word[1:]), "grow" if word[0] == "+" else "shrink") for word in text.split()]


# --- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elastic", "wanted"),
    [
        ({}, ""),
        ({"grow_at": {"step": [7, 3]}}, "+3 +7"),
        ({"grow_at": {"epoch": [2, 1]}}, "+10 +20"),
        ({"grow_at": {"epoch": [1], "step": [9, 10, 11]}}, "+9 +10 +10 +11"),
        ({"grow_at": {"step": [4, 4]}}, "+4 +4"),
        ({"shrink_at": {"step": [1], "epoch": [1]}}, "-1 -10"),
        ({"grow_at": {"step": [10]}, "shrink_at": {"epoch": [1]}}, "+10 -10"),
        ({"grow_at": {"epoch": [1]}, "shrink_at": {"step": [10, 9]}}, "-9 +10 -10"),
        ({"grow_at": {"step": [5, 5]}, "shrink_at": {"step": [5, 4, 6]}}, "-4 +5 +5 -5 -6"),
    ],
)
def test_planned_changes(elastic: dict[str, Any], wanted: str) -> None:
    assert planned_changes(ElasticConfig(**elastic), 10) == changes(wanted)


@pytest.mark.parametrize(
    ("start", "text", "most"),
    [
        (3, "", 3),
        (3, "-1 -2", 3),
        (1, "+1 +2 -3", 3),
        (2, "-1 +2 +3 -4", 3),
        (2, "+5 -5 +6", 3),
        (2, "-1 +2", 2),
    ],
)
def test_most_stages(start: int, text: str, most: int) -> None:
    assert most_stages(start, changes(text)) == most


@pytest.mark.parametrize(
    ("start", "text", "wanted"),
    [
        (1, "", None),
        (2, "-1", None),
        (1, "-1", 1),
        (2, "-1 -2", 2),
        (1, "+1 -2", None),
        (1, "+1 -2 -3 +4", 3),
        (1, "+4 -4", None),
        (3, "-1 -2 +3 -4", None),
    ],
)
def test_first_impossible(start: int, text: str, wanted: int | None) -> None:
    found = first_impossible(start, changes(text))
    assert found == (None if wanted is None else Planned(wanted, "shrink"))


# --- pace ----------------------------------------------------------------------------------------


def test_pace_of_a_known_clock(monkeypatch: MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(plan.time, "monotonic", lambda: now[0])
    pace = Pace()
    pace.mark()
    assert (pace.steps, pace.step_s) == (0, 0.0)
    now[0] = 2.0
    pace.mark()
    assert (pace.steps, pace.step_s) == (1, 2.0)
    now[0] = 3.0
    pace.mark()
    assert pace.steps == 2
    assert pace.step_s == pytest.approx(0.8 * 2.0 + 0.2 * 1.0)


@pytest.mark.parametrize(
    ("steps", "step_s", "left", "lead_s", "wanted"),
    [
        (0, 0.0, 0, 0.0, True),
        (0, 0.0, 20, 0.0, True),
        (9, 60.0, 20, 0.0, True),
        (9, 0.5, 21, 0.0, False),
        (0, 0.0, 21, 30.0, False),
        (4, 0.5, 40, 30.0, False),
        (5, 0.5, 40, 30.0, True),
        (5, 0.5, 60, 30.0, True),
        (5, 0.5, 61, 30.0, False),
    ],
)
def test_when_a_planned_stage_starts(
    steps: int, step_s: float, left: int, lead_s: float, wanted: bool
) -> None:
    assert Pace(step_s, steps).is_time(left, lead_s) is wanted


# --- growth by need ------------------------------------------------------------------------------


def when(**changed: Any) -> GrowWhenConfig:
    plateau = {"epochs": 2, "min_delta": 0.25}
    return GrowWhenConfig(**({"exit_accuracy_plateau": plateau, "max_stages": 4} | changed))


FLAT = "the last exit gained +0.0000 in 2 epochs (min_delta 0.25)"


@pytest.mark.parametrize(
    ("accuracies", "grow", "reason"),
    [
        ([], False, "0 epochs with these stages, more than 2 needed"),
        ([0.5, 0.5], False, "2 epochs with these stages, more than 2 needed"),
        ([0.5, 0.5, 0.5], True, FLAT),
        ([0.5, 0.5, 0.75], False, "gained +0.2500 in 2 epochs (min_delta 0.25)"),
        ([0.5, 0.75, 0.5], False, "gained +0.2500 in 2 epochs"),
        ([0.5, 0.5, 0.7421875], True, "gained +0.2422 in 2 epochs"),
        ([0.25, 0.5, 0.5, 0.5], True, FLAT),
        ([0.25, 0.25, 0.5, 0.5], False, "gained +0.2500 in 2 epochs"),
        ([0.75, 0.25, 0.5, 0.5], True, "gained -0.2500 in 2 epochs"),
    ],
)
def test_plateau(accuracies: list[float], grow: bool, reason: str) -> None:
    got = decide(when(), accuracies, 2, "")
    assert got.grow is grow
    assert reason in got.reason


@pytest.mark.parametrize(("stages", "grow"), [(3, True), (4, False), (5, False)])
def test_no_more_than_max_stages(stages: int, grow: bool) -> None:
    got = decide(when(), [0.5] * 3, stages, "")
    assert got == Decision(grow, FLAT if grow else f"{stages} stages are max_stages")


@pytest.mark.parametrize(
    ("if_resources", "no_room", "wanted"),
    [
        (True, "", Decision(True, FLAT)),
        (True, "all busy", Decision(False, f"{FLAT}, but there is no room: all busy")),
        (False, "all busy", Decision(True, FLAT)),
    ],
)
def test_room(if_resources: bool, no_room: str, wanted: Decision) -> None:
    assert decide(when(if_resources=if_resources), [0.5] * 3, 2, no_room) == wanted


# --- requests ------------------------------------------------------------------------------------


def test_a_command_as_a_request() -> None:
    command = {
        "id": "x",
        "kind": "grow",
        "user": "eve",
        "layers": 2,
        "change": {"heads": 2},
        "num_cpus": 0.5,
        "num_gpus": 1,
        "at_step": 7,
        "timeout_s": 9.0,
    }
    got = request_of(command)
    assert (got.id, got.kind, got.by, got.state) == ("x", "grow", "command", "queued")
    assert got.reason == "asked for by eve"
    assert (got.layers, got.change, got.ask) == (2, {"heads": 2}, Ask(0.5, 1))
    assert (got.not_before, got.at_epoch, got.exact, got.timeout_s) == (7, None, False, 9.0)


def test_a_bare_command() -> None:
    got = request_of({"id": "x", "kind": "shrink", "at_step": None, "change": None})
    assert (got.not_before, got.at_epoch, got.timeout_s) == (0, None, 300.0)
    assert (got.layers, got.change, got.ask) == (None, {}, Ask())
    assert got.reason == "asked for by a command"


def test_a_request_as_others_see_it() -> None:
    request = Request("x", "grow", asked_at=0.0, seconds={"build": 1.23456})
    request.move("failed", "no luck")
    view = request.view()
    assert (view["state"], view["text"], view["seconds"]) == ("failed", "no luck", {"build": 1.235})
    assert request.ended
    assert [state for state in ("queued", "ready", "joined", *ENDED) if _ended(state)] == [*ENDED]


def _ended(state: str) -> bool:
    return Request("x", "grow", state=state).ended


# --- the plan at work ----------------------------------------------------------------------------


def test_a_planned_growth_joins_at_exactly_its_step() -> None:
    job = Job(grow_at={"step": [5]}).begin()
    job.at(0)
    job.ready()
    assert [job.at(s) for s in range(1, 5)] == [Go.ON] * 4
    assert job.engine.joined == []
    assert job.at(5) is Go.ON
    assert job.engine.joined == [(4, 5)]
    record = job.control.changes.grown[0]
    assert (record["by"], record["reason"], record["step"]) == ("plan", "elastic.grow_at", 5)


def test_a_planned_growth_is_waited_for() -> None:
    job = Job(grow_at={"step": [5]}).begin()
    assert [job.at(s) for s in (4, 5, 5, 5)] == [Go.ON, Go.WAIT, Go.WAIT, Go.WAIT]
    job.ready()
    assert job.at(5) is Go.ON
    assert (job.engine.joined, len(job.engine.made)) == ([(4, 5)], 1)


@pytest.mark.parametrize("how", ["prepare", "start"])
def test_a_planned_growth_that_fails_is_not_waited_for(how: str) -> None:
    job = Job(grow_at={"step": [5]}).begin()
    if how == "prepare":
        job.engine.problem = "no such node"
    assert job.at(5) is (Go.ON if how == "prepare" else Go.WAIT)
    if how == "start":
        job.engine.made[-1].says = Progress("failed", "no such node")
    assert [job.at(5), job.at(6)] == [Go.ON] * 2
    assert job.given_up == [("grow", "failed")]
    assert len(job.engine.specs) == 3


def test_a_planned_stage_starts_a_little_before_it_is_due() -> None:
    job = Job(grow_at={"step": [25]}).begin()
    for step in range(5):
        job.at(step)
        assert job.engine.made == []
    job.at(5)
    assert [c.spec.number for c in job.engine.made] == [4]


def test_a_plan_in_order() -> None:
    job = Job(2, cut=4, grow_at={"step": [3, 3], "epoch": [1]}, shrink_at={"step": [3, 6]}).begin()
    seen = []
    for step in range(12):
        while job.at(step) is Go.WAIT:
            job.ready()
        seen.append([s.number for s in job.engine.specs])
    assert seen[2:4] == [[1, 2], [1, 2, 3]]
    assert seen[5:7] == [[1, 2, 3], [1, 2]]
    assert seen[9:12] == [[1, 2], [1, 2, 3], [1, 2, 3]]
    changes = job.control.changes
    assert [(r["stage"], r["step"]) for r in changes.grown] == [(3, 3), (4, 3), (3, 10)]
    assert [(r["stage"], r["step"]) for r in changes.shrunk] == [(4, 3), (3, 6)]
    assert [r["returned"] for r in changes.grown] == [False, False, True]
    assert [s.layers for s in job.engine.parked] == [("encoder.3",)]
    assert (changes.epoch, changes.given_up) == (1, [])


def test_a_planned_change_comes_before_a_commanded_growth_that_starts() -> None:
    job = Job(grow_at={"step": [24]}).begin()
    wish = job.ask("grow", "wish")
    assert wish.stage == 4
    assert [job.at(s) for s in (22, 23, 24)] == [Go.ON, Go.ON, Go.WAIT]
    assert job.engine.made[0].cancelled
    assert (wish.state, wish.text) == ("queued", "behind a planned change")
    job.ready()
    assert job.at(24) is Go.ON
    assert [(r["by"], r["step"]) for r in job.control.changes.grown] == [("plan", 24)]
    job.at(25)
    assert (wish.state, wish.stage) == ("starting", 5)
    job.ready()
    job.at(26)
    assert job.engine.joined == [(4, 24), (5, 26)]


def test_a_commanded_growth_that_is_ready_joins_beside_a_planned_one() -> None:
    job = Job(grow_at={"step": [24]}).begin()
    job.ask("grow", "wish")
    job.ready()
    job.at(3)
    assert [job.at(s) for s in (4, 24)] == [Go.ON, Go.WAIT]
    job.ready()
    job.at(24)
    assert job.engine.joined == [(4, 3), (5, 24)]


def test_a_planned_shrink_does_not_take_a_growth_back() -> None:
    job = Job(shrink_at={"step": [3]}).begin()
    wish = job.ask("grow", "wish")
    assert job.at(3) is Go.ON
    assert [s.number for s in job.engine.specs] == [1, 2]
    assert (wish.state, wish.text) == ("queued", "behind a stage that leaves")
    job.at(4)
    assert wish.stage == 3
    job.ready()
    job.at(5)
    assert job.engine.joined == [(3, 5)]
    assert job.control.changes.grown[0]["returned"]


def test_a_shrink_command_leaves_planned_growths_alone() -> None:
    job = Job(grow_at={"step": [9]}).begin()
    assert job.ask("shrink").state == "queued"
    job.at(1)
    assert (len(job.engine.specs), job.state("plan-1")) == (2, "queued")


def test_a_planned_change_that_never_comes_is_withdrawn() -> None:
    job = Job(grow_at={"step": [500]}, shrink_at={"epoch": [9]}).begin()
    for step in range(30):
        assert job.at(step) is Go.ON
    job.control.finish()
    assert sorted(job.given_up) == [("grow", "withdrawn"), ("shrink", "withdrawn")]
    assert job.engine.made == []


def test_a_planned_shrink_of_the_last_stage_does_not_happen() -> None:
    job = Job(2, shrink_at={"step": [2, 3]}).begin()
    assert [job.at(s) for s in (2, 3, 4)] == [Go.ON] * 3
    assert [s.number for s in job.engine.specs] == [1]
    assert job.state("plan-2") == "refused"


def test_a_planned_shrink_of_the_last_stage_is_told() -> None:
    job = Job(2, shrink_at={"step": [2, 3]}).begin()
    job.at(2), job.at(3)
    assert job.given_up == [("shrink", "refused")]


# --- no blocking ---------------------------------------------------------------------------------


def test_a_growth_that_is_due_later_does_not_block_a_planned_one() -> None:
    job = Job(3, cut=5, grow_at={"step": [25]}).begin()
    later = job.ask("grow", "later", not_before=28)
    job.at(4)
    assert later.state == "queued"
    job.control.handle(Request("now", "grow"))
    job.ready()
    job.at(5)
    for step in range(6, 25):
        assert job.at(step) is Go.ON
    while job.at(25) is Go.WAIT:
        job.ready()
    job.at(27)
    job.ready()
    job.at(28)
    assert job.engine.joined == [(4, 5), (5, 25), (6, 28)]


@pytest.mark.parametrize("later", ["plan", "command"])
def test_a_growth_that_is_due_later_does_not_block_one_for_now(later: str) -> None:
    job = Job(**({"grow_at": {"step": [15]}} if later == "plan" else {})).begin()
    if later == "command":
        job.ask("grow", "later", not_before=15)
    job.at(0)
    job.ready()
    job.at(1)
    now = job.ask("grow", "now")
    job.at(2)
    job.ready()
    job.at(3)
    assert (now.state, now.step) == ("joined", 3)


def test_a_growth_that_is_due_later_does_not_block_a_shrink() -> None:
    job = Job(grow_at={"step": [15]}).begin()
    job.at(0)
    job.ready()
    job.at(1)
    job.ask("shrink")
    job.at(2)
    assert len(job.engine.specs) == 2
    while job.at(15) is Go.WAIT:
        job.ready()
    assert job.engine.joined == [(3, 15)]


# --- growth by need at work ----------------------------------------------------------------------

POLICY = {"exit_accuracy_plateau": {"epochs": 2, "min_delta": 0.25}, "max_stages": 4}


def test_the_policy_grows_after_a_plateau() -> None:
    job = Job(grow_when=POLICY, timeout_s=7).begin()
    for epoch in range(2):
        job.evaluated(epoch, 0.5)
        assert job.control.views() == []
    assert job.said == [
        f"growth by need: no: {n} epochs with these stages, more than 2 needed" for n in (1, 2)
    ]
    job.evaluated(2, 0.5)
    (view,) = job.control.views()
    assert (view["id"], view["by"], view["state"]) == ("policy-3", "policy", "starting")
    assert view["timeout_s"] == 7
    assert job.said[-1] == f"growth by need: yes: {FLAT}"
    job.ready()
    job.at(21)
    record = job.control.changes.grown[0]
    assert (record["by"], record["reason"]) == ("policy", FLAT)


def test_the_policy_counts_anew_after_a_change() -> None:
    job = Job(grow_when=POLICY | {"max_stages": 9}).begin()
    job.evaluated(0, 0.5)
    job.evaluated(1, 0.5)
    job.grown(20)
    job.evaluated(1, 0.5)  # of the stages before the change: still on its way when they changed
    assert len(job.said) == 2
    job.evaluated(2, 0.5)
    job.evaluated(3, 0.5)
    assert "2 epochs with these stages" in job.said[-1]
    job.evaluated(4, 0.5)
    assert "yes" in job.said[-1]


@pytest.mark.parametrize(
    ("stages", "no_room", "reason"),
    [(4, "", "4 stages are max_stages"), (3, "all busy", "there is no room: all busy")],
)
def test_the_policy_says_why_not(stages: int, no_room: str, reason: str) -> None:
    job = Job(stages, grow_when=POLICY).begin()
    job.engine.no_room = no_room
    for epoch in range(3):
        job.evaluated(epoch, 0.5)
    assert job.control.views() == []
    assert reason in job.said[-1]


def test_the_policy_rests_while_a_stage_starts() -> None:
    job = Job(grow_when=POLICY).begin()
    for epoch in range(4):
        job.evaluated(epoch, 0.5)
    assert [v["id"] for v in job.control.views()] == ["policy-3"]


def test_no_policy_no_growth() -> None:
    job = Job().begin()
    for epoch in range(5):
        job.evaluated(epoch, 0.5)
    assert (job.said, job.control.views()) == ([], [])
