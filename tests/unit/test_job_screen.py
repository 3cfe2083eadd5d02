from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch
from rich.console import Console

from scpl_ray.elastic.request import Request
from scpl_ray.jobs.record import JobRecord
from scpl_ray.jobs.screen import job_table, render

LONG = "a-very-long-name-of-a-run-" * 3


def lines(what: Any) -> list[str]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(what)
    return console.export_text().splitlines()


def job(**changes: Any) -> JobRecord:
    base = {
        "id": "imdb-3f2a",
        "name": "imdb",
        "folder": "/data/runs/imdb",
        "user": "eve",
        "host": "h1",
        "started_at": time.time() - 125,
        "progress": {"epoch": 2, "epochs": 4, "step": 150, "steps": 600},
    }
    return JobRecord(**(base | changes))


def row(stage: int, **changes: Any) -> dict[str, Any]:
    base = {
        "stage": stage,
        "layers": [f"encoder.{stage}"],
        "state": "training",
        "loss": 1.2345,
        "exit_accuracy": 0.5,
        "validation_accuracy": 0.625,
        "busy": 0.875,
        "memory_mib": 1234.5,
    }
    return base | changes


def view(**changes: Any) -> dict[str, Any]:
    base = {
        "id": "imdb-3f2a",
        "name": "imdb",
        "phase": "training",
        "folder": "/data/runs/imdb",
        "running_s": 125.0,
        "title": "dascpl, transformer, imdb",
        "epoch": 2,
        "epochs": 4,
        "step": 150,
        "steps": 600,
        "samples_per_second": 1234.5,
        "eta_s": 3725.0,
        "log": ["2026-01-01 10:00:00 hello"],
        "changes": [],
        "stages": [row(1), row(2)],
    }
    return base | changes


def change(kind: Any = "grow", state: str = "queued", text: str = "", **more: Any) -> dict:
    request = Request("x", kind, **more)
    request.move(state, text)
    return request.view()


# --- the table of jobs ---------------------------------------------------------------------------


def test_a_row_a_job() -> None:
    ended = job(id="ag-0001", status="finished", ended_at=time.time() - 65, progress={})
    got = lines(job_table([job(), ended]))
    assert got[0].split() == ["job", "what", "epoch", "step", "for", "who", "folder"]
    assert got[1].split() == (
        ["imdb-3f2a", "running", "2/4", "150/600", "2:05", "eve@h1", "/data/runs/imdb"]
    )
    assert got[2].split() == (
        ["ag-0001", "finished", "-", "-", "1:00", "eve@h1", "/data/runs/imdb"]
    )
    assert len(got) == 3


def test_long_names_fold(tmp_path: Path) -> None:
    folder = str(tmp_path / LONG)
    big = {"epoch": 100, "epochs": 1000, "step": 1234567, "steps": 12345678}
    got = lines(
        job_table([job(id=LONG, folder=folder, user="someone-with", host=LONG, progress=big)])
    )
    assert max(map(len, got)) <= 80
    told = "".join(line[: got[0].index("what")].strip() for line in got[1:])
    assert told == LONG
    told = "".join(line[got[0].index("folder") :].strip() for line in got[1:])
    assert told == folder
    assert "running" in got[1]
    assert "1234567/12345678" in got[1]


def test_folders_are_named_from_here(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    got = lines(job_table([job(folder=str(tmp_path / "runs" / "imdb"))]))
    assert got[1].split()[-1] == "runs/imdb"


# --- the status of one job -----------------------------------------------------------------------


def test_status() -> None:
    got = lines(render(view()))
    assert max(map(len, got)) <= 80
    assert "training: imdb" in got[0]
    text = "\n".join(got)
    for part in (
        "epoch 2/4  step 150/600  1,234 samples/s  for 2:05, 1:02:05 left",
        "dascpl, transformer, imdb",
        "/data/runs/imdb   imdb-3f2a",
    ):
        assert part in text
    rows = [line.strip("│ ").split() for line in got if "encoder." in line]
    assert rows == [
        [str(n), f"encoder.{n}", *["1.234", "50.0", "%", "62.5", "%", "88%", "1,234"]]
        for n in (1, 2)
    ]
    assert "last spoke" not in text


def test_stages_that_join_and_that_have_left() -> None:
    empty = {"loss": None, "exit_accuracy": None, "validation_accuracy": None, "busy": None}
    stages = [row(1), row(2, **empty, memory_mib=0.0), row(3, state="left", loss=None)]
    got = [line.strip("│ ").split() for line in lines(render(view(stages=stages)))]
    assert ["2", "encoder.2", "joins", "-", "-", "-", "-"] in got
    assert ["3", "encoder.3", "left", "-", "62.5", "%", "-", "-"] in got


def test_before_the_first_step() -> None:
    early = {k: v for k, v in view(stages=[], phase="preparing data").items() if k != "step"}
    text = "\n".join(lines(render(early)))
    assert "preparing data: imdb" in text
    assert "for 2:05; hello" in text
    assert "for 2:05" in "\n".join(lines(render(early | {"log": []})))


@pytest.mark.parametrize(("age", "told"), [(10, False), (11, True)])
def test_a_job_that_is_silent(age: float, told: bool) -> None:
    text = "\n".join(lines(render(view(age_s=age))))
    assert (f"the job last spoke {age} s ago" in text) is told


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (change(), "+ grow queued"),
        (change(not_before=7, by="plan"), "+ grow queued, due at step 7 (plan)"),
        (change(state="ready", stage=4, text="it joins"), "+ stage 4 ready  it joins"),
        (
            change(state="pending", stage=4, text="waits for 1 GPU", timeout_s=60),
            "+ stage 4 pending (0 s of 60): waits for 1 GPU",
        ),
        (change(state="starting", stage=4, text="layers"), "+ stage 4 starting (0 s of 300): lay"),
        (change(state="done", text="stage 4 joined at step 9"), "  stage 4 joined at step 9"),
        (change("shrink", "refused", "one stage is left"), "! shrink refused: one stage is left"),
        (change(state="given up", text="no room"), "! grow given up: no room"),
    ],
)
def test_changes(made: dict[str, Any], wanted: str) -> None:
    assert any(wanted in line for line in lines(render(view(changes=[made]))))


def test_all_that_wait_and_the_latest_that_ended() -> None:
    ended = [change(state="done", text=f"done {n}") for n in range(5)]
    waits = [change(not_before=n) for n in range(101, 105)]
    text = "\n".join(lines(render(view(changes=[*ended[:3], *waits, *ended[3:]]))))
    assert [n for n in range(5) if f"done {n}" in text] == [2, 3, 4]
    assert [n for n in range(101, 105) if f"due at step {n}" in text] == [101, 102, 103, 104]


def test_long_names_and_many_stages() -> None:
    layers = [[f"a.layer.with.a.rather.long.name.{n}", f"another.{LONG}.{n}"] for n in range(30)]
    stages = [row(n + 1, layers=own, memory_mib=123456.0) for n, own in enumerate(layers)]
    problem = "word " * 60 + "end"
    long = view(
        name=LONG,
        id=f"{LONG}-0001",
        folder=f"/data/{LONG}/{LONG}",
        title=f"dascpl, {LONG}, {LONG}",
        stages=stages,
        changes=[change(state="failed", text=problem)],
        log=["2026-01-01 10:00:00 " + problem],
    )
    got = lines(render(long))
    assert max(map(len, got)) <= 80
    inside = [line.strip("│ ") for line in got]
    numbers = [line.split()[0] for line in inside if "a.layer.with" in line]
    assert numbers == [str(n) for n in range(1, 31)]
    assert all("123,456" in line for line in inside if "a.layer.with" in line)
    assert " ".join(inside).count("word") == 60
    assert any(line.endswith("end") for line in inside)
    assert f"{LONG}-0001" in "".join(inside)
    early = {k: v for k, v in long.items() if k != "step"}
    assert max(map(len, lines(render(early)))) <= 80


def test_a_long_name_leaves_the_phase_on_the_screen() -> None:
    text = "\n".join(lines(render(view(name=LONG, phase="evaluating"))))
    assert "evaluating" in text


def test_looking_at_jobs_imports_no_torch() -> None:
    code = "import sys, scpl_ray.jobs.screen, scpl_ray.jobs.client; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.strip() == "False", shown.stderr
