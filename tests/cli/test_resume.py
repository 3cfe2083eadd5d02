"""Runs that are killed, stopped or broken, and go on: the real command line, to the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from scpl_ray.data.batch import DataInfo
from scpl_ray.jobs.record import read_records
from scpl_ray.models.layers import LayeredModel
from tests.helpers import Fork, cli, train_process, until
from tests.ray.layers_for_tests import growing

T = TypeVar("T")
REPOSITORY = str(Path(__file__).parents[2])
EPOCHS, PER_EPOCH = 5, 21  # of digits in batches of 64
STEPS = EPOCHS * PER_EPOCH
TREE: dict[str, Any] = {
    "data": {"source": "digits"},
    "model": {"factory": "tests.cli.test_resume:paced"},
    "local": {"projection_head": {"hidden": 32, "out": 32}, "exit_head": {"hidden": 32}},
    "train": {"epochs": EPOCHS, "batch_size": 64, "clip_norm": 1.0, "select": "best"},
    "elastic": {"grow_at": {"step": [20]}, "shrink_at": {"step": [45]}},
    "fault_tolerance": {"checkpoint_every_steps": 10, "checkpoint_every_s": None},
    "resources": {"threads": 1, "device": "cpu"},
    "output": {"dir": "runs", "tensorboard": False},
}
LOCAL = ("train", "job.yaml", "--engine", "local")
PACE = "SECONDS_OF_A_STEP"


def paced(data: DataInfo) -> LayeredModel:
    """Two layers and more; how long a step takes is no part of the config."""
    return growing(data, sleep_s=float(os.environ.get(PACE, "0")))


def folder(path: Path, **changes: Any) -> Path:
    """A folder with the config; `changes` replace whole sections."""
    path.mkdir(parents=True)
    (path / "job.yaml").write_text(yaml.safe_dump(TREE | changes))
    return path


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", REPOSITORY)
    monkeypatch.delenv(PACE, raising=False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return folder(tmp_path / "work")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run ends with."""
    base = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        Fork(*LOCAL, cwd=folder(base / "work")).end()
    return summary(base / "work/runs/job")


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed; two checkpoints are there. To be copied."""
    base = tmp_path_factory.mktemp("dead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        process = slow(Fork, *LOCAL, cwd=folder(base / "work"))
        kill_after(process, base / "work/runs/job", 50)
    return base / "work"


@pytest.fixture
def killed(dead: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dead, tmp_path / "killed"))


def slow(start: Callable[..., T], *args: str, cwd: Path, step_s: float = 0.03) -> T:
    """Starts a run whose steps take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PACE, str(step_s))
        return start(*args, cwd=cwd)


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def trained(run: Path) -> int:
    """Steps in the metrics so far."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"kind": "step"') if path.exists() else 0


def kept(checkpoints: Path) -> list[int]:
    """Steps of complete checkpoints."""
    return sorted(int(p.parent.name[5:]) for p in checkpoints.glob("step-*/manifest.json"))


def kill_after(process: Any, run: Path, step: int, steps: int = 2) -> None:
    """SIGKILL, some steps after a checkpoint of this step or a later one."""
    checkpoints = run / "checkpoints"
    until(lambda: max(kept(checkpoints), default=0) >= step, "a checkpoint")
    until(lambda: trained(run) >= max(kept(checkpoints)) + steps, "some steps more")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "summary.json").exists()


def assert_whole(run: Path, whole: dict[str, Any]) -> None:
    """The run is that of an undisturbed one, in all that it leaves."""
    end = summary(run)
    assert end["status"] == "finished"
    assert end["weights_sha256"] == whole["weights_sha256"]
    for key in ("steps", "stages", "exits", "selected_epoch"):
        assert end[key] == whole[key], key
    for key in ("grown", "shrunk"):
        assert [(c["stage"], c["step"]) for c in end[key]] == [
            (c["stage"], c["step"]) for c in whole[key]
        ]
    metrics = rows(run)
    assert [r["step"] for r in metrics if r["kind"] == "step"] == list(range(end["steps"]))
    kinds = [(r["kind"], r["epoch"]) for r in metrics if r["kind"] != "step"]
    last = end["selected_epoch"] - 1
    assert kinds == [
        *(("validation", e) for e in range(end["epochs"])),
        ("train", last),
        ("test", last),
    ]
    assert [p.name for p in run.rglob("*.tmp")] == []
    assert not (run / "checkpoints").exists()


def refused(process: Fork) -> str:
    """What a command said that was refused."""
    assert process.wait() == 2, process.said
    assert "Traceback" not in process.said
    return process.said


def assert_no_event_twice(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [e.step for e in events.Scalars("stage_1/loss")] == list(range(STEPS))
    ends = [(e + 1) * PER_EPOCH for e in range(EPOCHS)]
    assert [e.step for e in events.Scalars("stage_1/validation_accuracy")] == ends


def popen(*args: str, cwd: Path) -> subprocess.Popen[str]:
    return train_process(cwd, *args, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    return said


def test_on_ray_killed_then_stopped_then_in_one_process(work: Path) -> None:
    """With a stage that joined by a command, after the checkpoint from which the run goes on."""
    run = work / "runs/job"
    more = ("train.epochs=15",)
    often = ("fault_tolerance.checkpoint_every_steps=2", "fault_tolerance.keep=1000")
    process = slow(popen, *more, *often, cwd=work, step_s=0.05)
    until(lambda: max(kept(run / "checkpoints"), default=0) >= 50, "a checkpoint", 120)
    grown = cli("grow", cwd=work)
    assert grown.returncode == 0, grown.stderr
    process.kill()
    process.communicate()
    at = max(int(p.name[:8]) for p in (run / "checkpoints/changes").glob("*.json"))
    assert 50 < at < trained(run)
    # As if no checkpoint had come after the growth.
    for step in kept(run / "checkpoints"):
        if step > at:
            shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    begun = max(kept(run / "checkpoints"))
    manifest = json.loads((run / f"checkpoints/step-{begun:08d}/manifest.json").read_text())
    stages = [(s["layers"], s["parked"]) for s in manifest["stages"]]
    assert stages == [(["first"], False), (["second"], False), (["tail.1"], True)]

    again = slow(popen, *more, "--resume", cwd=work, step_s=0.05)
    joined = f"stage 3 joined at step {at};"
    until(lambda: (run / "log.txt").read_text().count(joined) == 2, "the growth, again")
    stopped = cli("stop", cwd=work)
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped after" in finished(again)
    half = summary(run)
    assert half["status"] == "stopped" and at < half["steps"] < 15 * PER_EPOCH
    assert [g["step"] for g in half["grown"]] == [20, at]
    assert [s["step"] for s in half["shrunk"]] == [45]

    Fork(*LOCAL, *more, "--resume", cwd=work).end()
    planned = ("--name", "planned", f"elastic.grow_at.step=[20,{at}]")
    Fork(*LOCAL, *more, *planned, cwd=work).end()
    assert_whole(run, summary(work / "runs/planned"))
    assert [g["by"] for g in summary(run)["grown"]] == ["plan", "command"]
    log = (run / "log.txt").read_text()
    assert log.count("starting Ray") == 2 and log.count("preparing data") == 3
    assert f"'job' goes on at step {begun}, from" in log
    assert f"'job' goes on at step {half['steps']}, from" in log


def test_killed_twice_in_one_process(work: Path, whole: dict[str, Any]) -> None:
    run, events = work / "runs/job", "output.tensorboard=true"
    kill_after(slow(Fork, *LOCAL, events, cwd=work), run, 30)
    again = slow(Fork, *LOCAL, events, "--resume", cwd=work)
    until(lambda: "goes on at step" in again.said, "the resume")
    at = trained(run)
    until(lambda: trained(run) not in (0, at), "a step")
    again.send_signal(signal.SIGKILL)
    again.wait()
    Fork(*LOCAL, events, "--resume", cwd=work).end()
    assert_whole(run, whole)
    assert_no_event_twice(run)
    log = (run / "log.txt").read_text()
    assert log.count("preparing data") == 3 and log.count("goes on at step") == 2


def test_without_a_checkpoint_it_begins_anew(work: Path, whole: dict[str, Any]) -> None:
    run, none = work / "runs/job", "fault_tolerance.checkpoint_every_steps=1000"
    process = slow(Fork, *LOCAL, none, cwd=work)
    until(lambda: trained(run) > 3, "some steps")
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = Fork(*LOCAL, none, "--resume", cwd=work).end()
    assert "no checkpoint of 'job' yet: it starts at the beginning" in said
    assert_whole(run, whole)

    def state() -> dict[str, tuple[int, str]]:
        files = [p for p in sorted(run.rglob("*")) if p.is_file()]
        return {
            str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
            for p in files
        }

    before = state()
    said = Fork(*LOCAL, none, "--resume", cwd=work).end()
    assert state() == before
    assert "finished" in said


def test_what_may_change_and_what_not(killed: Path, whole: dict[str, Any]) -> None:
    for key, own, then in (("train.batch_size", 32, 64), ("model.width", 64, 128)):
        said = refused(Fork(*LOCAL, f"{key}={own}", "--resume", cwd=killed))
        assert f"{key}: {own}, but the run 'job' was started with {then}" in said
    both = refused(Fork(*LOCAL, "--resume", "--overwrite", cwd=killed))
    assert "--resume and --overwrite exclude each other" in both
    typo = refused(Fork(*LOCAL, "fault_tolerance.chekpoint_every_s=3", "--resume", cwd=killed))
    assert "chekpoint_every_s" in typo and "Did you mean 'checkpoint_every_s'?" in typo
    assert trained(killed / "runs/job") >= 50
    free = ("pipeline.in_flight=7", "resources.threads=2")
    said = Fork(*LOCAL, *free, "--resume", cwd=killed).end()
    assert "resources.threads: 2 is left aside: the run has 1" in said
    assert_whole(killed / "runs/job", whole)


def test_a_run_that_is_being_trained_is_left_alone(work: Path, whole: dict[str, Any]) -> None:
    process = slow(Fork, *LOCAL, cwd=work, step_s=0.05)
    until(lambda: trained(work / "runs/job"), "a step")
    (record,) = read_records()
    assert record.pid == process.pid
    said = refused(Fork(*LOCAL, "--resume", cwd=work))
    assert "is being trained now" in said and record.id in said and str(record.pid) in said
    said = refused(Fork(*LOCAL, cwd=work))
    assert "is taken" in said and "--resume" in said
    said = refused(Fork(*LOCAL, "--overwrite", cwd=work))
    assert "is being trained now" in said
    assert read_records()[-1].running, "it was still running"
    process.end()
    assert_whole(work / "runs/job", whole)


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_storage_that_is_being_written_is_left_alone(
    option: str, work: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    there = (*LOCAL, f"fault_tolerance.storage={storage}")
    process = slow(Fork, *there, cwd=work, step_s=0.1)
    try:
        until(lambda: kept(storage / "job"), "a checkpoint")
        said = refused(Fork(*there, option, cwd=folder(tmp_path / "away")))
        assert "is being trained now" in said and str(process.pid) in said
        assert kept(storage / "job")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def truncate(checkpoint: Path) -> str:
    part = checkpoint / "stage-1.safetensors"
    os.truncate(part, part.stat().st_size // 2)
    return "stage-1.safetensors"


def flip(checkpoint: Path) -> str:
    manifest = checkpoint / "manifest.json"
    content = bytearray(manifest.read_bytes())
    content[content.index(b'"samples"') + 12] ^= 1
    manifest.write_bytes(content)
    return "manifest.json"


@pytest.mark.parametrize("damage", [truncate, flip])
def test_the_newest_is_damaged(
    damage: Callable[[Path], str], killed: Path, whole: dict[str, Any]
) -> None:
    checkpoints = killed / "runs/job/checkpoints"
    before, newest = kept(checkpoints)
    name = damage(checkpoints / f"step-{newest:08d}")
    said = Fork(*LOCAL, "--resume", cwd=killed).end()
    line = next(line for line in said.splitlines() if f"step-{newest:08d}" in line)
    assert name in line and f"step-{before:08d}" in line
    assert re.search("not whole|damaged", line)
    assert f"'job' goes on at step {before}," in said
    assert f"step {before + 1}/{STEPS} " in said
    assert_whole(killed / "runs/job", whole)


def test_all_are_damaged(killed: Path) -> None:
    checkpoints = killed / "runs/job/checkpoints"
    for step in kept(checkpoints):
        truncate(checkpoints / f"step-{step:08d}")
    said = refused(Fork(*LOCAL, "--resume", cwd=killed))
    assert all(f"step-{step:08d}/stage-1.safetensors: " in said for step in kept(checkpoints))
    assert trained(killed / "runs/job") >= 50


def test_interrupted(work: Path, whole: dict[str, Any]) -> None:
    run = work / "runs/job"
    process = slow(Fork, *LOCAL, cwd=work)
    until(lambda: trained(run) > 33, "some steps")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.said
    assert "--resume goes on from the newest checkpoint" in process.said
    assert summary(run)["status"] == "interrupted"
    Fork(*LOCAL, "--resume", cwd=work).end()
    assert_whole(run, whole)


def test_a_step_is_seen_again(tmp_path: Path) -> None:
    model = {
        "factory": "tests.ray.layers_for_tests:failing_again",
        "options": {"step": 17, "how": "raise"},
    }
    work = folder(tmp_path / "work", model=model, elastic={})
    run = work / "runs/job"
    first = Fork(*LOCAL, cwd=work)
    assert first.wait() == 1, first.said
    error = re.search(r"error: stage 2 at step 17 \(input .*\): ArithmeticError: .*", first.said)
    assert error is not None, first.said
    assert kept(run / "checkpoints") == [10]
    found = re.search(r"See it again in one process: scpl-ray (train .*--from-step 17)", first.said)
    assert found is not None, first.said
    command = shlex.split(found[1])
    again = Fork(*command, cwd=work)
    assert again.wait() == 1, again.said
    assert "to see step 17 of 'job': from its checkpoint of step 10" in again.said
    assert re.search(r"error: stage 2 at step 17 \(input .*\): ArithmeticError", again.said)
    seen = [r["step"] for r in rows(work / "runs/job-from-17") if r["kind"] == "step"]
    assert seen == list(range(10, 17))
    assert kept(run / "checkpoints") == [10] and trained(run) == 17
    said = refused(Fork(*command[:-1], "-1", cwd=work))
    assert "--from-step: -1 is no step" in said


def test_a_step_that_does_not_fail(killed: Path) -> None:
    before = kept(killed / "runs/job/checkpoints")
    step = before[-1] + 3
    for _ in range(2):
        said = Fork(*LOCAL, "--from-step", str(step), cwd=killed).end()
        assert f"to see step {step} of 'job': from its checkpoint of step {before[-1]}" in said
        assert f"step {step} passed without an error" in said
        assert kept(killed / "runs/job/checkpoints") == before
        assert summary(killed / f"runs/job-from-{step}")["steps"] == step + 1
    said = refused(Fork(*LOCAL, "--from-step", str(STEPS), cwd=killed))
    assert f"--from-step: {STEPS} is no step of this run; allowed: 0 to {STEPS - 1}" in said


def test_batches_that_are_not_finite(tmp_path: Path) -> None:
    model = {
        "factory": "tests.ray.layers_for_tests:failing",
        "options": {"step": 15, "how": "nan"},
    }
    work = folder(tmp_path / "work", model=model, elastic={})
    stops = Fork(*LOCAL, "--name", "stops", cwd=work)
    assert stops.wait() == 1
    assert "error: stage 2 at step 15: the loss is nan" in stops.said
    assert kept(work / "runs/stops/checkpoints") == [10]
    said = Fork(*LOCAL, "fault_tolerance.on_nonfinite=skip", cwd=work).end()
    assert re.search("^!!! stage 2 left out the batch of step 15", said, re.MULTILINE), said
    end = summary(work / "runs/job")
    assert end["steps"] == STEPS
    assert end["skipped"] == [{"stage": 2, "step": 15}, {"stage": 3, "step": 15}]


def test_a_storage_of_its_own(work: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    storage = tmp_path / "storage"
    there = (*LOCAL, f"fault_tolerance.storage={storage}")
    process = slow(Fork, *there, cwd=work)
    run = work / "runs/job"
    until(lambda: len(kept(storage / "job")) == 2, "two checkpoints")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "checkpoints").exists()
    away = folder(tmp_path / "away")
    said = refused(Fork(*there, "output.dir=others", cwd=away))
    assert "is taken" in said and str(storage / "job") in said and "--resume" in said
    begun = max(kept(storage / "job"))
    said = Fork(*there, "--resume", "output.dir=others", cwd=away).end()
    assert f"'job' goes on at step {begun}, from {storage / 'job'}" in said
    end = summary(away / "others/job")
    assert end["weights_sha256"] == whole["weights_sha256"] and end["exits"] == whole["exits"]
    seen = [r["step"] for r in rows(away / "others/job") if r["kind"] == "step"]
    assert seen == list(range(begun, STEPS))
    assert kept(storage / "job")[-1] == STEPS
    Fork(*there, "--overwrite", "train.epochs=1", cwd=work).end()
    assert len(kept(storage / "job")) == 2 and kept(storage / "job")[-1] == PER_EPOCH


def test_a_storage_that_breaks_costs_no_more_than_warnings(
    work: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    storage = tmp_path / "storage"
    process = slow(Fork, *LOCAL, f"fault_tolerance.storage={storage}", cwd=work)
    until(lambda: kept(storage / "job"), "a checkpoint")
    storage.rename(tmp_path / "gone")
    storage.write_text("no folder")
    said = process.end()
    warnings = [line for line in said.splitlines() if "was not written" in line]
    assert len(warnings) >= 3
    assert all("training goes on; the last complete checkpoint is" in line for line in warnings)
    assert summary(work / "runs/job")["weights_sha256"] == whole["weights_sha256"]
