"""Snapshots when they are due, faults counted, and work in its order: pure parts of recovery."""

from __future__ import annotations

import pytest

from scpl_ray.config.running import FaultToleranceConfig
from scpl_ray.engine.budget import Budget
from scpl_ray.engine.fence import Fence, OutOfTurn, Ticket
from scpl_ray.engine.marks import Marks
from scpl_ray.schedule import Evaluate, Snapshot, Train, training


def steps_of(
    marks: Marks, steps: int, tick: float = 0.0, under_way: int = 0
) -> list[tuple[int, bool]]:
    """Where markers come among `steps` training steps of `tick` seconds each.

    A step is through when so many more are under way.
    """
    now = [0.0]
    marks.clock = lambda: now[0]
    found = []
    for work in marks.among(Train(i, 0) for i in range(steps)):
        if isinstance(work, Snapshot):
            found.append((work.step, work.durable))
        else:
            now[0] += tick
            marks.done = work.step - under_way
    return found


def test_by_steps() -> None:
    config = FaultToleranceConfig(
        snapshot_every_steps=4, checkpoint_every_steps=8, checkpoint_every_s=None
    )
    marks = Marks(config, may_write=lambda: True)
    assert steps_of(marks, 18) == [(4, False), (8, True), (12, False), (16, True)]


def test_by_time_and_cost() -> None:
    marks = Marks(FaultToleranceConfig(checkpoint_every_s=None))
    assert steps_of(marks, 13, tick=0.25) == [(4, False), (8, False), (12, False)]
    assert not marks.settled
    marks.cost_s = 0.02
    assert marks.every_s() == pytest.approx(4.0) and marks.settled, "half a percent of the time"
    marks.cost_s = 10.0
    assert marks.every_s() == 30.0
    assert Marks(FaultToleranceConfig(snapshot_every_s=7)).every_s() == 7


def test_until_one_is_through_nobody_knows_what_it_costs() -> None:
    """Without a cost a marker would come each second: ten of them before the first is through."""
    marks = Marks(FaultToleranceConfig(checkpoint_every_s=None))
    assert steps_of(marks, 40, tick=0.5, under_way=15) == [(16, False), (32, False)]
    known = Marks(FaultToleranceConfig(checkpoint_every_s=None), cost_s=0.001)
    assert steps_of(known, 7, tick=0.5, under_way=15) == [(2, False), (4, False), (6, False)]
    given = Marks(FaultToleranceConfig(snapshot_every_s=2, checkpoint_every_s=None))
    assert steps_of(given, 9, tick=0.5, under_way=15) == [(4, False), (8, False)]


def test_no_checkpoint_while_one_is_written_and_none_in_memory_where_it_is_of_no_use() -> None:
    config = FaultToleranceConfig(checkpoint_every_s=1.0)
    assert steps_of(Marks(config, memory=False), 40, tick=0.25) == []
    written = Marks(config, memory=False, may_write=lambda: True)
    assert steps_of(written, 10, tick=0.25) == [(4, True), (8, True)]


def test_a_full_log_marks_early_but_not_every_step() -> None:
    marks = Marks(FaultToleranceConfig(log_mib=10, checkpoint_every_s=None), log_mib=11.0)
    assert steps_of(marks, 10) == [(4, False), (8, False)]
    small = Marks(FaultToleranceConfig(checkpoint_every_s=None), log_mib=11.0, room_mib=10)
    assert steps_of(small, 6) == [(4, False)]


def test_a_full_log_waits_for_the_marker_that_is_under_way() -> None:
    marks = Marks(FaultToleranceConfig(log_mib=10, checkpoint_every_s=None), log_mib=11.0)
    assert steps_of(marks, 40, under_way=15) == [(16, False), (32, False)]


def test_work_in_parts_is_one_run_less_the_time_between_them() -> None:
    config = FaultToleranceConfig(snapshot_every_s=5, checkpoint_every_s=None)
    marks, now, found = Marks(config), [0.0], []
    marks.clock = lambda: now[0]
    for first in range(0, 12, 3):
        now[0] += 100.0
        for work in marks.among(Train(i, 0) for i in range(first, first + 3)):
            if isinstance(work, Snapshot):
                found.append(work.step)
            else:
                now[0] += 1.0
    assert found == [5, 10]


def test_disabled() -> None:
    config = FaultToleranceConfig(enabled=False, snapshot_every_steps=1)
    assert steps_of(Marks(config, may_write=lambda: True), 9, tick=9.0) == []


def test_the_schedule_goes_on() -> None:
    whole = list(training(3, 4, 1, stash=True))
    assert list(training(3, 4, 1, stash=True, first=0)) == whole
    for first in range(1, 12):
        rest = list(training(3, 4, 1, stash=True, first=first))
        assert rest == whole[whole.index(Train(first, first // 4)) :]
    assert list(training(3, 4, 1, stash=True, first=12)) == []
    assert isinstance(whole[4], Evaluate)


def test_limits_of_a_batch_a_stage_and_a_run() -> None:
    budget = Budget(FaultToleranceConfig(max_failures_per_batch=1, max_failures_per_stage=3))
    assert budget.count("stage 1", 5, "x") == ""
    assert "2 times at this batch" in budget.count("stage 1", 5, "x")
    assert budget.count("stage 1", 6, "x") == ""
    assert "died 4 times (fault_tolerance.max_failures_per_stage = 3)" in budget.count(
        "stage 1", 7, "x"
    )
    run = Budget(FaultToleranceConfig(max_failures=1))
    assert run.count("stage 1", 1, "x") == ""
    assert "max_failures = 1" in run.count("stage 2", 2, "x")
    endless = Budget(FaultToleranceConfig(max_failures=None, max_failures_per_stage=None))
    assert {endless.count("stage 1", i, "x") for i in range(500)} == {""}
    # Where there is no step, the work under way counts, or the start.
    assert {endless.count("stage 1", -1, "x", place) for place in range(50)} == {""}
    early = [endless.count("the data process", -1, "x") for _ in range(3)]
    assert early[:2] == ["", ""] and "died 3 times at the same point" in early[2]


def test_what_a_failure_cost() -> None:
    budget = Budget(FaultToleranceConfig())
    budget.count("stage 1", 1, "x")
    budget.count("stage 2", 1, "y")
    budget.took(1, 2.5)
    assert [f.seconds for f in budget.failures] == [0.0, 2.5]


def test_work_in_turn_once() -> None:
    fence = Fence()
    first, second = Ticket(0, -1, 0), Ticket(0, 0, 1)
    fence.check(first)
    fence.begun = 0
    fence.check_begun(first)
    fence.passed(first)
    for wrong in (first, Ticket(0, 1, 2), Ticket(1, 0, 1)):
        with pytest.raises(OutOfTurn):
            fence.check(wrong)
    fence.check(second)
    with pytest.raises(OutOfTurn, match="without its forward"):
        fence.check_begun(second)


def test_a_call_from_before_a_recovery_finds_no_open_door() -> None:
    fence = Fence(last=7)
    stale = Ticket(0, 7, 8)
    fence.check(stale)
    fence.place(generation=1, last=7)
    with pytest.raises(OutOfTurn):
        fence.check(stale)
    fence.check(Ticket(1, 7, 8))
