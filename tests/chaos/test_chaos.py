"""The chaos harness itself: its pure parts, its bookkeeping on a stand-in, and a short real run."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.__main__ import kill_table
from tests.chaos.job import REPOSITORY, Job, config
from tests.chaos.progress import Progress, Step, wrong_steps
from tests.chaos.run import Kill, Killer, measure
from tests.chaos.stats import choose, flatness, gaps, longest_gap, quantile, table

# Writes 150 steps and a summary; goes on from the last multiple of 20, or hangs, or leaves things.
STAND_IN = """
import json, pathlib, sys, time
how, run = sys.argv[1], pathlib.Path("runs/chaos")
run.mkdir(parents=True, exist_ok=True)
path = run / "metrics.jsonl"
lines = path.read_text().splitlines() if path.exists() else []
if how != "forgets":
    lines = lines[: len(lines) // 20 * 20]
path.write_text("".join(line + chr(10) for line in lines))
with path.open("a", buffering=1) as file:
    for step in range(len(lines), 150):
        time.sleep(10 if how == "hangs" and step == 30 else 0.02)
        row = {"kind": "step", "step": step, "stages": [{"finished_at": time.time()}]}
        if how == "twice" and step == 70:
            file.write(json.dumps(row) + chr(10))
        file.write(json.dumps(row) + chr(10))
if how == "leaves":
    (run / ".summary.json.tmp").write_text("half")
digests = ["b" if how == "differs" else "a"]
summary = {"status": "finished", "steps": 150, "weights_sha256": digests, "failures": []}
(run / "summary.json").write_text(json.dumps(summary))
"""


class StandIn(Job):
    """A job without Ray."""

    how = ""

    def command(self, resume: bool) -> list[str]:
        return [sys.executable, "-c", STAND_IN, self.how]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder of a short path."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def stand_in(folder: Path, how: str) -> StandIn:
    job = StandIn(folder / "j", config(2, 0.0))
    job.how = how
    return job


def test_choice_is_seeded_and_even() -> None:
    there = {"stage": [1, 2, 3], "data": [4], "driver": [5], "standby": []}

    def drawn(seed: int) -> list[tuple[str, int] | None]:
        draw = random.Random(seed)
        return [choose(there, ["any"], draw) for _ in range(600)]

    assert drawn(3) == drawn(3) != drawn(4)
    kinds = [one[0] for one in drawn(3) if one]
    assert all(150 < kinds.count(kind) < 250 for kind in ("stage", "data", "driver"))
    assert choose(there, ["data"], random.Random()) == ("data", 4)
    assert choose(there, ["standby", "parked"], random.Random()) is None


def test_gaps_are_seeded_and_within_the_run() -> None:
    drawn = [gaps(400, 5, 10, random.Random(seed)) for seed in range(50)]
    assert drawn[0] == gaps(400, 5, 10, random.Random(0))
    assert all(len(one) == 5 and min(one) >= 10 and sum(one) < 430 for one in drawn)


def test_numbers() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(list(range(1, 11)), 0.9) == 9
    assert quantile([], 0.5) != quantile([], 0.5)  # NaN
    assert longest_gap([1.0, 2.0, 7.0, 30.0], 0.0, 10.0) == 5.0
    assert longest_gap([], 1.0, 4.0) == 3.0
    lines = table([["a", "bc"], ["def", "1"]]).splitlines()
    assert lines == ["a    bc", "-------", "def   1"]


@pytest.mark.parametrize(("per_minute", "flat"), [(0.0, True), (0.2, True), (3.0, False)])
def test_flatness(per_minute: float, flat: bool) -> None:
    draw = random.Random(0)
    # Grows fast at first; every seventh minute a process is young, and small.
    points = [
        (
            t,
            150
            + min(t, 200) / 4
            + per_minute * t / 60
            + draw.gauss(0, 1)
            - 60 * (t // 60 % 7 == 6),
        )
        for t in map(float, range(0, 1800, 5))
    ]
    judged = flatness(points)
    assert judged is not None
    assert judged.flat is flat
    assert abs(judged.slope - per_minute) < 0.25
    shrinking = flatness([(t, 200 - t / 60) for t in map(float, range(0, 1800, 5))])
    assert shrinking is not None and shrinking.flat
    assert flatness([(0.0, 1.0)]) is None
    short = flatness([(float(t), 100.0) for t in range(0, 60, 5)])
    assert short is not None and short.flat and short.early == 100.0


def line(step: int, at: float) -> str:
    stages = [{"finished_at": at - 1}, {"finished_at": at}]
    return json.dumps({"kind": "step", "step": step, "stages": stages}) + "\n"


def test_progress_over_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    progress = Progress(path)
    assert progress.poll() == []
    path.write_text(line(0, 1.0) + json.dumps({"kind": "validation"}) + "\n" + line(1, 2.0)[:-9])
    assert progress.poll() == [Step(0, 1.0)]
    path.write_text("".join(line(i, i + 1.0) for i in range(4)))
    assert [s.step for s in progress.poll()] == [1, 2, 3]
    # Cut back to two steps, and already longer than before when it is looked at.
    cut = line(0, 1.0) + line(1, 2.0)
    path.write_text(cut + "".join(line(i, i + 10.0) for i in range(2, 7)))
    assert progress.poll() == [Step(i, i + 10.0) for i in range(2, 7)]
    assert progress.last == 6 and len(progress.steps) == 9
    assert wrong_steps(path, 7) == ""
    assert "missing [7]" in wrong_steps(path, 8)
    path.write_text(line(0, 1.0) + line(0, 2.0) + line(2, 3.0))
    wrong = wrong_steps(path, 2)
    assert "missing [1]" in wrong and "more than once [0]" in wrong and "end [2]" in wrong


def test_kills_are_measured(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "none")
    progress.steps = [Step(0, 1.0), Step(1, 2.0), Step(2, 9.0), Step(1, 20.0), Step(3, 23.0)]
    kills = [
        Kill(1, "data", "data", 1, 1, 2.5, "steps"),
        Kill(1, "driver", "driver", 2, 2, 10.0, "steps"),
        Kill(1, "stage", "stage", 3, 3, 24.0, "late"),
    ]
    measure(kills, progress)
    assert [(k.next_s, k.caught_up_s, k.stall_s) for k in kills] == [
        (6.5, 6.5, 6.5),
        (10.0, 13.0, 10.0),
        (None, None, None),
    ]
    kills[0].identical = True
    rows = kill_table(kills).splitlines()
    assert rows[2].split()[:4] == ["stage", "1", "0", "1"]
    assert rows[-1].split()[:4] == ["all", "3", "1", "2"]


def test_a_driver_is_killed_and_goes_on(short: Path) -> None:
    job = stand_in(short, "sound")
    outcome = Killer(job, print, 5).disturbed(1, 150, 3, ["driver"], "0", True)
    assert outcome.problems == [] and outcome.digests == ["a"]
    assert len(outcome.kills) == 3 and len({k.pid for k in outcome.kills}) == 3
    assert all(k.next_s and k.caught_up_s and k.next_s <= k.caught_up_s for k in outcome.kills)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("hangs", "no step for 2 s after step 29"),
        ("twice", "more than once [70]"),
        ("leaves", "left behind: runs/chaos/.summary.json.tmp"),
    ],
)
def test_what_is_wrong_is_seen(short: Path, how: str, words: str) -> None:
    job = stand_in(short, how)
    outcome = Killer(job, print, 2).undisturbed()
    assert any(words in problem for problem in outcome.problems), outcome.problems
    assert list(job.processes()) == []


def test_a_process_left_behind_is_seen_and_ended(short: Path) -> None:
    job = stand_in(short, "sound")
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=job.folder)
    elsewhere = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd="/")
    try:
        assert any(f"process {left.pid}" in thing for thing in job.leftovers(0.2))
        job.end()
        assert left.wait(5) == -9 and elsewhere.poll() is None
    finally:
        left.kill()
        elsewhere.kill()
        elsewhere.wait()


def test_shared_memory_left_behind_is_seen(short: Path) -> None:
    job = stand_in(short, "sound")
    segment = Path(f"/dev/shm/chaos-test-{os.getpid()}-{time.monotonic_ns()}")
    segment.write_bytes(b"x")
    try:
        assert str(segment) in job.leftovers(0.2)
    finally:
        segment.unlink()


@pytest.mark.timeout(300)
def test_three_kills(request: pytest.FixtureRequest) -> None:
    """A stage, the data process and the driver, in one run: the weights of an undisturbed one."""
    if not request.config.getoption("--chaos"):
        pytest.skip("two minutes: --chaos; tests/ray/test_recovery.py kills each kind by design")
    line = [sys.executable, "-m", "tests.chaos", "--kills", "3", "--per-run", "3", "--in-turn"]
    line += ["--targets", "stage,data,driver", "--epochs", "9", "--reference", "local"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "killed driver" in done.stdout and "killed data" in done.stdout
