from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch

from scpl_ray.errors import JobError
from scpl_ray.jobs import record
from scpl_ray.jobs.record import (
    JobRecord,
    choose,
    ended_line,
    new_id,
    new_record,
    read_records,
    spoke_lately,
    state_dir,
    write_record,
)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def job(name: str = "imdb", job_id: str = "", **changes: Any) -> JobRecord:
    """A job of this process."""
    made = new_record(name, Path(f"/nowhere/{name}"), "ray", job_id or f"{name}-1")
    return dataclasses.replace(made, **changes)


def ended(name: str = "imdb", job_id: str = "", **changes: Any) -> JobRecord:
    return job(name, job_id, **({"status": "finished", "ended_at": 9.0} | changes))


# --- files ---------------------------------------------------------------------------------------


def test_a_record_of_this_process(tmp_path: Path) -> None:
    made = new_record("imdb", tmp_path / "x" / ".." / "runs", "local")
    assert made.folder == str(tmp_path / "runs")
    assert (made.pid, made.engine, made.status) == (os.getpid(), "local", "running")
    assert made.user
    assert made.host
    assert made.started_at > made.process_at > 0
    assert made.id.startswith("imdb-")
    assert len(made.id) == len("imdb-3f2a")
    assert len({new_id("imdb") for _ in range(20)}) > 15


def test_written_and_read(tmp_path: Path) -> None:
    assert read_records() == []
    first, second = job(started_at=2.0, progress={"step": 3}), job("b", started_at=1.0)
    write_record(first)
    write_record(second)
    assert state_dir() == tmp_path / "state" / "scpl-ray" / "jobs"
    assert read_records() == [second, first]
    changed = dataclasses.replace(first, address="1.2.3.4:5")
    write_record(changed)
    assert read_records() == [second, changed]
    assert sorted(p.name for p in state_dir().iterdir()) == ["b-1.json", "imdb-1.json"]


@pytest.mark.parametrize("text", ["", "{", "{}", '{"id": "x"}', "[1]"])
def test_files_that_are_no_records_are_passed_over(text: str) -> None:
    write_record(job())
    (state_dir() / "other.json").write_text(text)
    assert [r.id for r in read_records()] == ["imdb-1"]


def test_keys_of_a_later_version_are_passed_over() -> None:
    write_record(job())
    path = state_dir() / "imdb-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "good"}))
    assert read_records() == [job(started_at=read_records()[0].started_at)]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(JobError, match="cannot write the job's record in .*set XDG_STATE_HOME"):
        write_record(job())


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "running"),
        ({"process_at": 1.0}, "died"),  # the pid has been given to another process
        ({"host": "elsewhere", "pid": 0}, "running"),
        ({"host": "elsewhere", "process_at": 1.0}, "running"),
    ],
)
def test_who_is_alive(changes: dict[str, Any], status: str) -> None:
    write_record(job(**changes))
    (found,) = read_records()
    assert found.status == status
    assert found.error == ("its process is gone" if status == "died" else "")
    assert found.running is (status == "running")


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write_record(job(pid=process.pid))
    assert [r.status for r in read_records()] == ["died"]
    write_record(ended("b", pid=process.pid))
    assert sorted(r.status for r in read_records()) == ["died", "finished"]


def test_the_oldest_ended_ones_are_forgotten(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_KEPT_ENDED", 3)
    write_record(job("lives", started_at=0.0))
    for n in range(1, 6):
        write_record(ended(f"e{n}", started_at=float(n), ended_at=float(n)))
        (state_dir() / f"e{n}-1.out").write_text("said")
    assert [r.name for r in read_records()] == ["lives", "e3", "e4", "e5"]
    write_record(job("starts", started_at=9.0))
    assert len(read_records()) == 5
    write_record(ended("e6", started_at=6.0, ended_at=6.0))
    assert [r.name for r in read_records()] == ["lives", "e4", "e5", "e6", "starts"]
    assert sorted(p.stem for p in state_dir().glob("*.out")) == ["e4-1", "e5-1"]


def test_a_long_job_is_not_forgotten_as_it_ends(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_KEPT_ENDED", 3)
    write_record(job("long", started_at=0.0))
    for n in range(1, 4):
        write_record(ended(f"e{n}", started_at=float(n), ended_at=float(n)))
    write_record(ended("long", started_at=0.0, ended_at=9.0))
    assert "long" in [r.name for r in read_records()]


# --- which one -----------------------------------------------------------------------------------

A, B = job("imdb", "imdb-1", user="eve", host="h", folder="/r/imdb"), job("ag", "ag-1")
TWIN = job("imdb", "imdb-2", user="bob", host="g", folder="/q/imdb")
OVER = ended("old", "old-1", folder="/nowhere/old")


@pytest.mark.parametrize(
    ("wish", "records", "wanted"),
    [
        (None, [A], A),
        (None, [OVER, A], A),
        (None, [A, OVER], A),
        ("imdb", [A, B], A),
        ("ag-1", [A, B], B),
        ("imdb-2", [A, TWIN], TWIN),
        ("imdb", [ended("imdb", "imdb-0"), A, B], A),
        ("imdb", [A, ended("imdb", "imdb-0")], A),
    ],
)
def test_choose(wish: str | None, records: list[JobRecord], wanted: JobRecord) -> None:
    assert choose(wish, records) is wanted


@pytest.mark.parametrize(
    ("wish", "records", "words"),
    [
        (None, [], "no job runs here"),
        (
            None,
            [ended("older", "older-1"), OVER],
            "no job runs here. The last one: job 'old' has ended: finished; it left no results",
        ),
        (None, [A, B], "say which JOB; running here: imdb, ag"),
        (None, [A, B, TWIN], "say which JOB; running here: imdb-1, ag, imdb-2"),
        ("imbd", [A, B], "no job 'imbd'; running here: imdb, ag. Did you mean 'imdb'?"),
        ("x", [], "no job 'x'; running here: no job."),
        (
            "imdb",
            [A, TWIN],
            "2 jobs are named 'imdb'; say which by its id: imdb-1 (eve@h, /r/imdb), "
            "imdb-2 (bob@g, /q/imdb)",
        ),
        ("old", [OVER, A], "job 'old' has ended: finished; it left no results"),
        ("old-1", [OVER, A], "job 'old' has ended: finished; it left no results"),
        (
            "old",
            [OVER, ended("old", "old-2", status="failed", error="no disk\nmore")],
            "job 'old' has ended: failed (no disk); it left no results",
        ),
    ],
)
def test_choose_says_why_not(wish: str | None, records: list[JobRecord], words: str) -> None:
    with pytest.raises(JobError) as caught:
        choose(wish, records)
    assert str(caught.value) == words


def test_choose_elsewhere() -> None:
    with pytest.raises(JobError, match="^no job runs on 1.2.3.4:5$"):
        choose(None, [], "on 1.2.3.4:5")


def test_where_the_results_are(tmp_path: Path) -> None:
    line = ended_line(ended(folder=str(tmp_path)))
    assert line == f"job 'imdb' has ended: finished; its results are in {tmp_path}"


def test_a_job_of_another_machine_is_believed_while_it_writes() -> None:
    here, there = job("a", "a-1"), job("b", "b-1", host="elsewhere")
    for each in (here, there):
        write_record(each)
    assert spoke_lately(here) and spoke_lately(there)
    for each in (here, there):
        os.utime(state_dir() / f"{each.id}.json", (1, 1))
    assert spoke_lately(here), "its process was looked at"
    assert not spoke_lately(there), "its machine may be gone: a resume elsewhere must be possible"
