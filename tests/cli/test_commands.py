"""The commands as a user runs them, on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from scpl_ray.config import load_config
from tests.helpers import cli, no_process_left, processes_in, small_config, write_texts

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    write_texts(tmp_path / "texts.jsonl")
    tree = small_config(Path("texts.jsonl"), Path("runs"), stages=[2, 2])
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    result = cli("--help", cwd=tmp_path)
    assert result.returncode == 0 and "train" in result.stdout
    code = (
        "import sys; sys.argv = ['scpl-ray', '--help']\n"
        "from scpl_ray.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'datasets', 'pydantic'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_shipped_yaml_loads_and_fits_the_schema(tmp_path: Path) -> None:
    schema = json.loads(cli("schema", cwd=tmp_path).stdout)
    fitting = jsonschema.Draft202012Validator(schema)
    shipped = EXAMPLES[0].parent / "config.schema.json"
    assert json.loads(shipped.read_text()) == schema, f"run: scpl-ray schema > {shipped}"
    for path in EXAMPLES:
        load_config(path)
        fitting.validate(yaml.safe_load(path.read_text()))
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=")
        assert (path.parent / first.split("=", 1)[1]).samefile(shipped), path


def test_dry_run_prints_what_it_reads_back(job: Path) -> None:
    result = cli("train", "job.yaml", "train.epochs=7", "--dry-run", cwd=job)
    assert result.returncode == 0
    (job / "again.yaml").write_text(result.stdout)
    assert load_config(job / "again.yaml").train.epochs == 7
    assert load_config(job / "again.yaml") == load_config(
        job / "job.yaml", ["train.epochs=7", "name=job"]
    )
    assert not (job / "runs").exists()


def test_train_and_eval_on_ray(job: Path) -> None:
    result = cli("train", "job.yaml", "output.tensorboard=true", cwd=job)
    assert result.returncode == 0, result.stderr
    assert "stage 1: embedding, encoder.1" in result.stdout
    assert "accuracy per exit" in result.stdout
    folder = job / "runs/job"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stages"] == [["embedding", "encoder.1"], ["encoder.2", "encoder.3"]]
    for key in (
        "name",
        "method",
        "steps",
        "epochs",
        "train_seconds",
        "samples_per_second",
        "seed",
        "versions",
    ):
        assert key in summary
    assert [e["stage"] for e in summary["exits"]] == [1, 2]
    assert len(summary["weights_sha256"]) == 2
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in rows if r["kind"] == "step"]
    assert steps == list(range(summary["steps"]))
    assert [r["epoch"] for r in rows if r["kind"] == "validation"] == [0, 1]
    assert sum(r["kind"] == "test" for r in rows) == 1, "the test split is looked at once"
    assert list((folder / "tensorboard").glob("events.*"))
    assert load_config(folder / "config.yaml").name == "job"

    scored = json.loads(cli("eval", "runs/job", "--json", cwd=job).stdout)
    for trained, loaded in zip(summary["exits"], scored["exits"], strict=True):
        assert trained["test_accuracy"] == loaded["accuracy"]
        assert trained["test_loss"] == pytest.approx(loaded["loss"], rel=1e-6)
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name]
    no_process_left(job, limit_s=1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(how: signal.Signals, job: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "scpl_ray", "train", "job.yaml", "train.epochs=5000"],
        cwd=job,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = job / "runs/job/metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.stat().st_size > 2000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    running = processes_in(job)
    # Ctrl-C of a terminal goes to every process of the foreground group.
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    assert any("raylet" in line for line in running), running
    assert sum("StageActor" in line for line in running) in (2, 3), "two, and perhaps the spare"
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    assert json.loads((job / "runs/job/summary.json").read_text())["status"] == "interrupted"
    for line in metrics.read_text().splitlines():
        json.loads(line)
    no_process_left(job, limit_s=2)


def test_env_names_versions(tmp_path: Path) -> None:
    result = cli("env", cwd=tmp_path)
    assert result.returncode == 0
    for word in ("python", "torch", "ray", "cores"):
        assert word in result.stdout
