"""How many batches go into one call, and what such a call is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from scpl_ray import schedule
from scpl_ray.config.running import PipelineConfig
from scpl_ray.engine.ahead import Ahead
from scpl_ray.engine.call_size import CallSize
from scpl_ray.engine.calls import Piece
from scpl_ray.stage_facts import StageStats


def stats(seconds: float, mib: float = 0.0) -> StageStats:
    return StageStats(
        1, 0, 0.0, 0.0, None, None, 1, 0.0, 0.1, seconds / 2, seconds / 2, given_mib=mib
    )


@pytest.mark.parametrize(
    ("seconds", "mib", "size"),
    [
        (0.8, 0, 1),
        (0.1, 0, 8),
        (0.06, 0, 16),
        (0.03, 0, 32),
        (0.01, 0, 128),
        (0.0001, 0, 256),
        (0.001, 1.0, 32),
    ],
)
def test_short_steps_travel_together(seconds: float, mib: float, size: int) -> None:
    calls = CallSize(PipelineConfig())
    for _ in range(15):
        calls.saw([stats(seconds, mib), stats(seconds / 3, mib)])
        assert calls.now() == 1, "too few were seen"
    calls.saw([stats(seconds, mib)])
    assert calls.now() == size


def test_the_slowest_stage_decides_and_a_number_is_a_number() -> None:
    calls = CallSize(PipelineConfig())
    for _ in range(16):
        calls.saw([stats(0.001), stats(0.8)])
    assert calls.now() == 1
    assert CallSize(PipelineConfig(batches_per_call=5)).now() == 5


def test_stages_that_share_cores_have_longer_calls_and_fewer_of_them() -> None:
    """Four stages of 80 ms on two cores: a step each 160 ms, calls of 2 s and not of 1."""
    pipeline = PipelineConfig()
    assert [pipeline.window(4, True, n) for n in (math.inf, 4, 3, 2, 1.5, 1)] == [7, 7, 5, 4, 4, 3]
    assert (
        pipeline.window(4, False, 2) == 10 and PipelineConfig(in_flight=9).window(4, True, 2) == 9
    )
    calls = CallSize(pipeline, at_once=2)
    for _ in range(16):
        calls.saw([stats(0.16)] * 4)
    assert (calls.crowd, calls.sharing(4), calls.now()) == (2, 2, 16)
    own = CallSize(pipeline, at_once=4)
    for _ in range(16):
        own.saw([stats(0.16)] * 4)
    assert (own.crowd, own.sharing(4), own.now()) == (1, 1, 8)


def test_calls_of_many_stages_on_few_cores_are_no_longer_than_a_command_can_wait() -> None:
    """Four of sixteen stages are at work at once, so each takes twice its time alone of 80 ms.

    All of them need two cores for 640 ms: three such steps are nearest to 2 s.
    """
    calls = CallSize(PipelineConfig(), at_once=2)
    for _ in range(16):
        calls.saw([stats(0.16)] * 16)
    assert (calls.crowd, calls.sharing(16), calls.now()) == (8, 2, 4)


def test_what_is_kept_of_all_stages_fits_the_room() -> None:
    """Ten stages: 13 calls under way, twice, and 2 ahead; each batch is half a MiB to each."""
    coming = 2 * 13 + 2
    for room, size in ((2 * coming * 5 * 8.0, 8), (2 * coming * 5 * 7.9, 4), (1.0, 1)):
        calls = CallSize(PipelineConfig(), room_mib=room)
        for _ in range(16):
            calls.saw([stats(0.001, 0.5)] * 10)
        assert calls.now() == size


def test_fewer_calls_are_asked_for_ahead_where_many_batches_travel_as_one() -> None:
    assert (PipelineConfig().ahead(), PipelineConfig().ahead(True)) == (8, 2)
    assert (PREFETCH.ahead(), PREFETCH.ahead(True)) == (3, 3)


class Source:
    """Says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[schedule.Work]] = []

    def batches(self, works: list[schedule.Work]) -> list[Piece | None]:
        self.asked.append(list(works))
        return [Piece(len(self.asked), i) for i in range(len(works))]


class Members:
    """No stage has left."""

    def __init__(self) -> None:
        self.parked: list[Any] = []


PREFETCH = PipelineConfig(prefetch=3)


def together(work: list[schedule.Work], size: int, parked: bool = False) -> list[int]:
    members: Any = Members()
    members.parked = [1] if parked else []
    source: Any = Source()
    ahead = Ahead(source, members, CallSize(PipelineConfig(batches_per_call=size)), PREFETCH)
    calls = list(ahead.calls(work))
    assert [item.work for call in calls for item in call] == work
    assert source.asked == [[item.work for item in call] for call in calls]
    return [len(call) for call in calls]


def test_calls_end_where_the_kind_of_work_changes() -> None:
    work: list[schedule.Work] = list(schedule.training(2, 7, 3, stash=True))
    assert together(work, 4) == [4, 3, 3, 1, 4, 3, 3, 1]
    assert together(work, 4, parked=True) == [4, 3, 1, 1, 1, 1, 4, 3, 1, 1, 1, 1]
    assert together(work, 1) == [1] * len(work)
    marked = [*work[:2], schedule.Snapshot(2), *work[2:7]]
    assert together(marked, 4) == [2, 1, 4, 1]


def test_a_full_call_does_not_wait_for_the_work_behind_it() -> None:
    pulled: list[schedule.Work] = []

    def work() -> Iterator[schedule.Work]:
        for i in range(9):
            pulled.append(schedule.Train(i, 0))
            yield pulled[-1]

    members: Any = Members()
    source: Any = Source()
    settings = PipelineConfig(batches_per_call=4, prefetch=0)
    calls = Ahead(source, members, CallSize(settings), settings).calls(work())
    assert len(next(calls)) == 4 and len(pulled) == 4
    assert len(next(calls)) == 4 and len(pulled) == 8


def test_lost_batches_are_asked_for_again() -> None:
    source: Any = Source()
    members: Any = Members()
    ahead = Ahead(source, members, CallSize(PipelineConfig(batches_per_call=2)), PREFETCH)
    calls = ahead.calls(schedule.training(1, 8, 0, stash=False))
    call = next(calls)
    before = [item.batch for item in call]
    ahead.ask_again()
    assert [item.batch for item in call] != before
    assert len(source.asked) == 8


def test_a_piece_is_an_entry_or_all() -> None:
    assert Piece("ref", 1).after(1).of(["a", "b", "c"]) == "c"
    assert Piece("ref").of(["a"]) == ["a"]
