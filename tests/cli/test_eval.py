"""`scpl-ray eval` as it is called: one trained run for all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from scpl_ray.cli.eval import command
from scpl_ray.errors import ScplRayError
from tests.helpers import cli, run_job, small_config, write_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DASCPL run and one that has a single exit."""
    folder = tmp_path_factory.mktemp("eval")
    data = write_texts(folder / "texts.jsonl", samples=300)
    for name, method in (("job", "dascpl"), ("one", "scpl")):
        tree = small_config(
            data,
            folder / "runs",
            name=name,
            method=method,
            pipeline__engine="local",
            train__epochs=3,
            optimizer__lr=0.01,
        )
        run_job(tree)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: one thread is fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls the command in this process: starting Python takes longer than the command."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*args: str) -> Result:
        return CliRunner().invoke(command, list(args), catch_exceptions=True)

    return call


def refused(result: Result, *words: str) -> None:
    text = str(result.exception) + result.output
    assert result.exit_code != 0
    if not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, ScplRayError) and result.exception.exit_code == 2
    for word in words:
        assert word in text, text


def values(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_exit_and_one_of_them(ask):
    every = values(ask("runs/job", "--json"))
    assert [e["stage"] for e in every["exits"]] == [1, 2, 3, 4]
    assert all(0 <= e["ece"] <= 1 and e["temperature"] is None for e in every["exits"])
    assert set(every["exits"][0]["per_class"]) == {"neg", "pos"}
    assert values(ask("job", "--exit", "all", "--json")) == every | {"run": "runs/job"}
    one = values(ask("job", "--exit", "2", "--json"))["exits"]
    assert len(one) == 1 and one[0].items() >= every["exits"][1].items()
    assert one[0]["layers"] == 0.5 and 0 < one[0]["flops"] < 1 and one[0]["time"] > 0
    text = ask("job", "--exit", "2", "--per-class")
    assert "50.0 % of the layers" in text.output and "accuracy by class" in text.output


def test_a_threshold(ask):
    every = values(ask("job", "--json"))["exits"]
    left = values(ask("job", "--threshold", "0.8", "--json"))
    assert sum(e["answered"] for e in left["exits"]) == every[0]["samples"]
    right = sum(e["answered"] * (e["accuracy"] or 0) for e in left["exits"])
    assert right / every[0]["samples"] == pytest.approx(left["accuracy"])
    assert left["last_exit_accuracy"] == pytest.approx(every[-1]["accuracy"])
    first = values(ask("job", "--threshold", "0", "--json"))
    assert first["accuracy"] == pytest.approx(every[0]["accuracy"])
    assert first["layers"] == 0.25 and first["flops"] < left["flops"]
    entropy = ask("job", "--threshold", "0.3", "--measure", "entropy", "--per-class")
    assert entropy.exit_code == 0 and "entropy 0.3" in entropy.output


def test_the_sweep(ask, folder):
    swept = values(ask("job", "--sweep", "--max-compute", "0.6", "--json", "--plot", "s.png"))
    assert (folder / "s.png").read_bytes().startswith(b"\x89PNG")
    assert swept["aim"] == {"max_loss": None, "max_compute": 0.6, "by": "flops"}
    assert swept["chosen_on"] == "validation" and swept["best_on_validation"]["flops"] <= 0.6
    points = {p["threshold"]: p for p in swept["points"]}
    best = swept["best"]
    assert points[best["threshold"]] == best and best["time"] > 0
    assert points[0.0]["answered"] == {"1": 1.0, "2": 0.0, "3": 0.0, "4": 0.0}
    # What the sweep says of its best threshold is what comes of using it.
    left = values(ask("job", "--threshold", str(best["threshold"]), "--json"))
    assert left["accuracy"] == pytest.approx(best["accuracy"])
    assert left["flops"] == pytest.approx(best["flops"])
    text = ask("job", "--sweep", "--max-loss", "0.01", "--by", "layers")
    assert re.search(r"\* confidence [\d.]+: best for at most 1 points below", text.output)
    assert "not calibrated" in text.stderr
    none = ask("job", "--sweep", "--max-compute", "0")
    assert none.exit_code == 0 and "no threshold gives at most 0 % of the FLOPs" in none.output


def test_calibration_stays_beside_the_run(ask, folder):
    done = cli("eval", "job", "--calibrate", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    fitted = json.loads(done.stdout)
    path = folder / "runs/job/temperatures.json"
    assert (folder / fitted["file"]).samefile(path)
    try:
        used = ask("job", "--json", "--split", "validation")
        assert "calibrated with runs/job/temperatures.json" in used.stderr
        for own, now in zip(fitted["temperatures"], values(used)["exits"], strict=True):
            assert now["temperature"] == own["temperature"]
            assert now["loss"] == pytest.approx(own["loss_after"], rel=1e-5)
            assert now["ece"] == pytest.approx(own["ece_after"], abs=1e-6)
        without = ask("job", "--no-temperatures", "--json")
        assert values(without)["exits"][0]["temperature"] is None and not without.stderr
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--exit", "9"], ["--exit", "'9'", "1, 2, 3, 4, all"]),
        (["--exit", "al"], ["Did you mean 'all'"]),
        (["--exit", "1", "--sweep"], ["give one"]),
        (["--calibrate", "--threshold", "0.5"], ["give one"]),
        (["--threshold", "1.2"], ["--threshold: 1.2", "0 to 1"]),
        (["--threshold", "nan"], ["--threshold: nan", "0 to 1"]),
        (["--threshold", "1", "--measure", "entropy"], ["0 to 0.69315"]),
        (["--max-loss", "0.1"], ["add --sweep"]),
        (["--max-loss", "2", "--sweep"], ["max-loss", "2"]),
        (["--plot", "a.png"], ["add --sweep"]),
        (["--plot", "a.pdf", "--sweep"], ["a.pdf", ".png"]),
        (["--plot", "missing/a.png", "--sweep"], ["missing", "no folder"]),
        (["--temperatures"], ["temperatures.json", "--calibrate"]),
        (["--calibrate", "--no-temperatures"], ["--no-temperatures"]),
    ],
)
def test_what_is_refused(ask, args, words):
    refused(ask("job", *args), *words)


def test_a_run_with_one_exit_cannot_leave_early(ask):
    refused(ask("one", "--sweep"), "one exit", "method=dascpl")
    refused(ask("one", "--threshold", "0.9"), "one exit")
    assert [e["stage"] for e in values(ask("one", "--json"))["exits"]] == [4]


def test_temperatures_of_an_older_checkpoint_are_left_out_and_it_is_said(ask, folder):
    assert ask("job", "--calibrate").exit_code == 0
    path = folder / "runs/job/temperatures.json"
    try:
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"checkpoint_sha256": "0" * 64}))
        old = ask("job", "--json")
        assert "another checkpoint" in old.stderr
        assert values(old)["exits"][0]["temperature"] is None
        path.write_text("{")
        refused(ask("job"), "temperatures.json", "cannot be used")
        # Fitting again mends it.
        assert ask("job", "--calibrate").exit_code == 0 and len(yaml.safe_load(path.read_text()))
    finally:
        path.unlink()
