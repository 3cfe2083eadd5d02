"""The timeline: every stage and step once, nothing overlaps, and it can be read."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.engine.base import Done
from scpl_ray.report import Plan
from scpl_ray.schedule import Train
from scpl_ray.stage_facts import StageSpec, StageStats
from scpl_ray.trace import EVENTS, PICTURE, Trace
from scpl_ray.trace_parts import parts_of

NOON = 1_700_000_000.0


def stats(stage: int, step: int, loss: float = 1.0) -> StageStats:
    """A step of 100 ms; stage k begins it 30 ms after stage k-1."""
    begun = NOON + 0.1 * step + 0.03 * (stage - 1)
    return StageStats(
        stage, step, loss, loss, None, None, 8, 0.0, 0.1, 0.03, 0.06,
        finished_at=begun + 0.095, receive_s=0.002, send_s=0.2, loss_s=0.01, backward_s=0.04,
        begun_at=begun, snapshot_s=0.02 if step == 3 else 0.0,
    )  # fmt: skip


def traced(folder: Path, steps: int = 6, close: bool = True) -> list[dict[str, Any]]:
    trace = Trace(folder)
    specs = [StageSpec(k, (f"layer.{k}",), True) for k in (1, 2)]
    trace.info("preparing data")
    trace.started(Plan("run", "title", specs, 1, steps))
    for step in range(steps):
        loss = math.nan if step == 2 else 1.0
        trace.step(0, Done(Train(step, 0), stats=(stats(1, step, loss), stats(2, step, loss))))
    trace.info("stage 3 joined")
    trace.evaluated("validation", 0, [])
    if close:
        trace.close()
    else:
        assert trace._file is not None
        trace._file.flush()
    text = (folder / EVENTS).read_text()
    return list(json.loads(text if close else text.rstrip().rstrip(",") + "]"))


def test_every_step_once_and_nothing_overlaps(tmp_path: Path) -> None:
    events = traced(tmp_path)
    spans = [e for e in events if e["ph"] == "X"]
    for stage in (1, 2):
        own = [e for e in spans if e["tid"] == stage]
        forwards = [e["args"]["step"] for e in own if e["name"] == "forward"]
        assert forwards == list(range(6))
        assert {e["name"] for e in own} == {
            "receive", "forward", "send", "loss", "backward", "optimizer", "snapshot",
        }  # fmt: skip
        for before, after in pairwise(own):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.3
    first = next(e for e in spans if e["name"] == "forward")
    assert (first["ts"], first["dur"]) == pytest.approx((2000, 30000), abs=1)
    assert next(e["args"]["loss"] for e in spans if e["args"]["step"] == 2) == "nan"
    arrows = [(e["ph"], e["tid"]) for e in events if e.get("cat") == "flow" and e["id"] == 4]
    assert arrows == [("s", 1), ("f", 2)]
    said = [e["name"] for e in events if e["ph"] == "i"]
    assert said == ["preparing data", "stage 3 joined", "validation"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {0: "run", 1: "stage 1: layer.1", 2: "stage 2: layer.2"}


def test_parts_are_in_order_and_end_with_the_step() -> None:
    parts = parts_of(stats(1, 3))
    assert [name for name, _, _ in parts] == [
        "snapshot", "receive", "forward", "send", "loss", "backward", "optimizer",
    ]  # fmt: skip
    assert all(a[2] <= b[1] + 1e-6 for a, b in pairwise(parts))
    assert parts[-1][2] == stats(1, 3).finished_at


def test_a_run_that_is_killed_leaves_a_timeline(tmp_path: Path) -> None:
    events = traced(tmp_path, close=False)
    assert sum(e["ph"] == "X" and e["name"] == "forward" for e in events) == 12


def test_the_picture(tmp_path: Path) -> None:
    traced(tmp_path, steps=1)
    one = (tmp_path / PICTURE).read_bytes()
    traced(tmp_path, steps=60)
    many = (tmp_path / PICTURE).read_bytes()
    assert one[:8] == many[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(many) > len(one) > 5_000


def test_without_a_step_there_is_no_file(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "never")
    trace.notice("no such data")
    trace.close()
    assert not (tmp_path / "never").exists()
