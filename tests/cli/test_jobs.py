"""Running jobs from other processes: the real command line against real jobs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scpl_ray.jobs.record import read_records
from tests.helpers import (
    at,
    cli,
    no_process_left,
    processes_in,
    run_job,
    stop,
    train_process,
    until,
)

TREE: dict[str, Any] = {
    "data": {"source": "digits"},
    # Two layers and more; each step sleeps, so that the commands have a core to run on.
    "model": {"factory": "tests.ray.layers_for_tests:growing", "options": {"sleep_s": 0.08}},
    "train": {"epochs": 3000, "batch_size": 64},
    "resources": {"threads": 1, "device": "cpu"},
    "output": {"dir": "runs", "tensorboard": False},
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a config that trains for long."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "job.yaml").write_text(yaml.safe_dump(TREE))
    yield folder
    for record in read_records():
        if record.running:
            os.kill(record.pid, signal.SIGKILL)


def status(folder: Path, *args: str) -> dict[str, Any]:
    shown = cli("status", *args, "--json", cwd=folder)
    return json.loads(shown.stdout) if shown.returncode == 0 and shown.stdout[:1] == "{" else {}


def test_grow_twice_shrink_once_and_stop(job: Path) -> None:
    process = train_process(job)
    until(read_records, "the job's record")
    early = cli("grow", "--no-wait", cwd=job)  # before training has begun: it waits
    assert early.returncode == 0, early.stderr
    second = cli("grow", "job", cwd=job)
    assert second.returncode == 0, second.stderr
    assert "first batch was through" in second.stdout
    seen = status(job)
    assert [s["stage"] for s in seen["stages"]] == [1, 2, 3, 4]
    assert all(s["exit_accuracy"] is not None for s in seen["stages"][:3])
    picture = cli("status", cwd=job, env={"COLUMNS": "80"})
    assert "training: job" in picture.stdout
    assert max(map(len, picture.stdout.splitlines())) <= 80
    gone = cli("shrink", cwd=job)
    assert gone.returncode == 0 and "stage 4 left before step" in gone.stdout
    watching = subprocess.Popen(
        [sys.executable, "-m", "scpl_ray", "status", "--watch", "--json"],
        cwd=job,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["phase"] == "training"
    ended = cli("stop", cwd=job)
    assert ended.returncode == 0, ended.stderr
    watched, _ = watching.communicate(timeout=30)
    assert watching.returncode == 0 and "has ended: stopped" in watched.splitlines()[-1]
    assert "has ended: stopped" in ended.stdout and str(job / "runs/job") in ended.stdout
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "stopped after" in out

    summary = json.loads((job / "runs/job/summary.json").read_text())
    assert summary["status"] == "stopped"
    assert [(g["stage"], g["layers"]) for g in summary["grown"]] == [
        (3, ["tail.1"]),
        (4, ["tail.2"]),
    ]
    assert [s["stage"] for s in summary["shrunk"]] == [4]
    changes = [*summary["grown"], *summary["shrunk"]]
    assert [c["step"] for c in changes] == sorted({c["step"] for c in changes})
    # The same two stages, never grown, stopped at the same step.
    tree = TREE | {"name": "alone", "pipeline": {"engine": "local"}}
    tree["model"] = TREE["model"] | {"options": {"sleep_s": 0.0}}
    tree |= {"output": {"dir": str(job / "runs"), "tensorboard": False}}
    alone, _ = run_job(tree, [(at(summary["steps"] - 1), stop)])
    assert alone.summary["steps"] == summary["steps"]
    assert alone.summary["weights_sha256"] == summary["weights_sha256"][:2]

    scored = json.loads(cli("eval", "runs/job", "--json", cwd=job).stdout)
    assert [e["stage"] for e in scored["exits"]] == [1, 2, 3, 4]
    log = cli("logs", "job", "-n", "400", cwd=job).stdout
    for words in ("stage 3 joined", "stage 4 joined", "stage 4 leaves", "stop: asked for"):
        assert words in log
    late = cli("grow", "job", cwd=job)
    assert late.returncode == 2 and "has ended: stopped; its results are in" in late.stderr
    no_process_left(job, limit_s=10)


def test_two_jobs_of_one_name(job: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "job.yaml").write_text((job / "job.yaml").read_text())
    for folder in (job, other):
        begun = cli("train", "job.yaml", "--detach", cwd=folder)
        assert begun.returncode == 0, begun.stderr
        assert "runs in the background" in begun.stdout
    rows = json.loads(cli("list", "--json", cwd=job).stdout)
    assert [r["folder"] for r in rows] == [str(job / "runs/job"), str(other / "runs/job")]
    assert all(r["name"] == "job" and r["progress"]["epochs"] == 3000 for r in rows)
    first, second = (r["id"] for r in rows)
    shown = cli("list", cwd=job).stdout
    assert first in shown and second in shown

    both = cli("stop", "job", cwd=job)
    assert both.returncode == 2
    assert "2 jobs are named 'job'" in both.stderr and first in both.stderr
    none = cli("grow", cwd=job)
    assert none.returncode == 2 and "say which JOB" in none.stderr
    wrong = cli("status", "jop", cwd=job)
    assert wrong.returncode == 2
    assert "no job 'jop'" in wrong.stderr and "Did you mean 'job'?" in wrong.stderr
    same = cli("train", "job.yaml", cwd=job)
    assert same.returncode == 2 and "is taken" in same.stderr

    refused = cli("grow", first, "--layer-config", "optoins=1", cwd=job)
    assert refused.returncode == 2 and "Did you mean 'options'?" in refused.stderr
    past = cli("grow", first, "--at-step", "1", cwd=job)
    assert past.returncode == 2 and "step 1 is not ahead" in past.stderr
    own = cli("grow", first, "--layers", "2", cwd=job)
    assert own.returncode == 0, own.stderr
    lacking = cli("grow", first, "--num-gpus", "1", "--timeout", "2s", cwd=job)
    assert lacking.returncode == 1
    assert "GPU: 1 asked, 0 free, 0 in all" in lacking.stderr
    for one in (second, first):
        assert cli("stop", one, cwd=job).returncode == 0
    summary = json.loads((job / "runs/job/summary.json").read_text())
    assert summary["stages"][2] == ["tail.1", "tail.2"]
    assert [g["state"] for g in summary["given_up"]] == ["given up"]
    untouched = json.loads((other / "runs/job/summary.json").read_text())
    assert untouched["grown"] == [] and len(untouched["stages"]) == 2
    assert "no job runs" in cli("list", cwd=job).stdout
    ended = json.loads(cli("list", "--all", "--json", cwd=job).stdout)
    assert [r["status"] for r in ended] == ["stopped", "stopped"]
    no_process_left(job, other, limit_s=10)


def test_a_killed_job_is_known_as_such(job: Path) -> None:
    process = train_process(job)
    until(lambda: status(job).get("step"), "training", 60)
    bad = cli("status", cwd=job, env={"RAY_AUTH_TOKEN": "a" * 32})
    assert bad.returncode == 2
    assert "does not accept this user's token" in bad.stderr and "~/.ray/auth_token" in bad.stderr
    process.kill()
    process.wait()
    begun = time.monotonic()
    shown = cli("status", "job", cwd=job)
    assert "has ended: died" in shown.stdout
    assert time.monotonic() - begun < 20
    ours = ("raylet", "gcs_server", "Actor", "Mailbox")
    until(
        lambda: not [p for p in processes_in(job) if any(name in p for name in ours)],
        "the end of its Ray and its actors",
        30,
    )


def test_a_detached_job_that_cannot_start_says_why(job: Path) -> None:
    bad = cli("train", "job.yaml", "data.source=digit", "--detach", cwd=job)
    assert bad.returncode == 2
    assert "Did you mean 'digits'" in bad.stderr
    assert not (job / "runs").exists()


def test_a_cluster_that_does_not_answer(job: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    begun = time.monotonic()
    for args in (["list"], ["status"], ["grow", "x"]):
        shown = cli(*args, "--address", address, cwd=job)
        assert shown.returncode == 2 and f"nothing answers at {address}" in shown.stderr
    shown = cli("train", "job.yaml", f"resources.address={address}", cwd=job)
    assert shown.returncode == 2 and f"nothing answers at {address}" in shown.stderr
    assert time.monotonic() - begun < 40
    shown = cli("list", "--address", "somewhere", cwd=job)
    assert shown.returncode == 2 and "is not HOST:PORT" in shown.stderr


def test_a_server_that_is_no_ray(job: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        shown = cli("status", "--address", address, cwd=job)
    assert shown.returncode == 2 and f"no Ray cluster answers at {address}" in shown.stderr


def test_a_job_on_the_local_engine(job: Path) -> None:
    process = train_process(job, "--engine", "local")
    until(lambda: status(job).get("progress"), "training", 60)
    refused = cli("grow", cwd=job)
    assert refused.returncode == 2 and "takes no commands" in refused.stderr
    process.send_signal(2)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert "has ended: interrupted" in cli("status", "job", cwd=job).stdout


def test_no_waiting_and_bad_calls(tmp_path: Path) -> None:
    none = cli("grow", cwd=tmp_path)
    assert none.returncode == 2 and "no job runs here" in none.stderr
    both = cli("grow", "--at-step", "3", "--at-epoch", "1", cwd=tmp_path)
    assert both.returncode == 2 and "not both" in both.stderr
    split = cli("grow", "--num-gpus", "1.5", cwd=tmp_path)
    assert split.returncode == 2 and "whole GPUs" in split.stderr
    lasting = cli("grow", "--timeout", "soon", cwd=tmp_path)
    assert lasting.returncode == 2 and "300s, 5m or 1h" in lasting.stderr
    missing = cli("grow", "--layer-config", "nothing.yaml", cwd=tmp_path)
    assert missing.returncode == 2 and "nothing.yaml" in missing.stderr
    assert "no job runs" in cli("list", cwd=tmp_path).stdout
    for name in ("list", "status", "grow", "shrink", "stop", "logs"):
        assert cli(name, "--help", cwd=tmp_path).returncode == 0
    assert os.environ["XDG_STATE_HOME"] == str(tmp_path / "state")
