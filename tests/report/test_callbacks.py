"""Callbacks: what they are told, what they may do wrong, and the two that come with scpl-ray."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import scpl_ray
from scpl_ray.callbacks import Callback, Metrics, RunStart
from scpl_ray.callbacks.registry import callback_classes
from scpl_ray.config import load_config
from scpl_ray.engine.base import Done
from scpl_ray.errors import ConfigError
from scpl_ray.exits import ExitResult
from scpl_ray.job_checks import check_before
from scpl_ray.report import Reporter
from tests.helpers import cli, small_config

ME = "tests.report.test_callbacks"
SEEN: list[tuple[Any, ...]] = []


class Seen(Callback):
    """Writes down all that it is told."""

    def __init__(self, mark: str = "") -> None:
        self.mark = mark

    def on_start(self, run: RunStart) -> None:
        SEEN.append(("start", self.mark, run, threading.current_thread().name))

    def on_metrics(self, metrics: Metrics) -> None:
        SEEN.append(("metrics", metrics))

    def on_evaluate(self, split: str, epoch: int, step: int, exits: list[ExitResult]) -> None:
        SEEN.append(("evaluate", split, epoch, step, exits))

    def on_event(self, kind: str, text: str) -> None:
        SEEN.append(("event", kind, text))

    def on_end(self, status: str, summary: dict[str, Any]) -> None:
        SEEN.append(("end", status, summary))


class Breaks(Callback):
    """Fails as soon as it is given figures."""

    calls = 0

    def on_metrics(self, metrics: Metrics) -> None:
        type(self).calls += 1
        raise RuntimeError("the server is gone")


class Slow(Callback):
    """Takes as long for its first report as the whole training."""

    released = threading.Event()
    in_time = ended = False

    def on_metrics(self, metrics: Metrics) -> None:
        type(self).in_time = self.released.wait(60)

    def on_end(self, status: str, summary: dict[str, Any]) -> None:
        type(self).ended = True


class Notices(Reporter):
    """Keeps what must not be missed; lets the slow one go on when all has been scored."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        if split == "test":
            Slow.released.set()


def train(texts: Path, out: Path, callbacks: list[Any], **changes: Any) -> Any:
    """A run on the local engine: (run, notices)."""
    tree = small_config(texts, out, pipeline__engine="local", callbacks=callbacks, **changes)
    listener = Notices()
    return scpl_ray.train(tree, reporter=listener), listener.said


def test_they_are_told_everything_in_order(texts: Path, tmp_path: Path) -> None:
    SEEN.clear()
    grow = {"elastic__start_stages": 2, "elastic__grow_at": {"epoch": [1]}}
    run, _ = train(texts, tmp_path, [{f"{ME}:Seen": {"mark": "x"}}], **grow)
    kinds = [row[0] for row in SEEN]
    assert kinds[0] == "start" and kinds[-1] == "end"
    _, mark, start, thread = SEEN[0]
    assert mark == "x" and thread == f"callback {ME}:Seen"
    assert (start.plan.name, start.folder, start.first_step) == ("run", run.dir, 0)
    assert start.config["model"]["width"] == 16 and start.job.startswith("run-")
    assert SEEN[-1] == ("end", "finished", run.summary)
    scored = {row[1]: row[4] for row in SEEN if row[0] == "evaluate"}
    assert list(scored) == ["validation", "train", "test"]
    for row, exit_ in zip(run.summary["exits"], scored["test"], strict=True):
        assert (row["stage"], row["test_accuracy"]) == (exit_.stage, exit_.accuracy)
    reports = [row[1] for row in SEEN if row[0] == "metrics"]
    assert reports[-1].step == run.summary["steps"] and reports[-1].stages == 3
    assert sum(m.samples for m in reports) == run.summary["data"]["train"] * 2
    flat = reports[-1].flat()
    assert {"stage_3/loss", "stage_3/accuracy", "stage_3/waiting", "stage_3/lr"} <= set(flat)
    assert flat["stage_3/busy"] + flat["stage_3/waiting"] == pytest.approx(1.0)
    events = [(row[1], row[2]) for row in SEEN if row[0] == "event"]
    # What was said before the start is told too.
    assert ("info", "preparing data") in events
    assert any(kind == "stages" and "3 (encoder.2)" in text for kind, text in events)


def test_one_that_fails_is_dropped_and_said_once(texts: Path, tmp_path: Path) -> None:
    Breaks.calls = 0
    SEEN.clear()
    run, notices = train(texts, tmp_path, [f"{ME}:Breaks", f"{ME}:Seen"])
    assert run.summary["status"] == "finished" and Breaks.calls == 1
    assert [n for n in notices if "server is gone" in n] == [
        f"callback '{ME}:Breaks' failed in on_metrics and is not called again; the training goes "
        "on (RuntimeError: the server is gone)"
    ]
    assert SEEN[-1][:2] == ("end", "finished"), "the others go on"


def test_a_slow_one_does_not_hold_up_the_training(texts: Path, tmp_path: Path) -> None:
    Slow.released.clear()
    run, notices = train(texts, tmp_path, [f"{ME}:Slow"])
    assert run.summary["status"] == "finished" and notices == []
    assert Slow.in_time, "all was trained and scored while it had not returned"
    assert Slow.ended, "it is waited for at the end"


def test_a_run_that_fails_says_so(texts: Path, tmp_path: Path) -> None:
    SEEN.clear()
    with pytest.raises(scpl_ray.errors.RunError):
        train(texts, tmp_path, [f"{ME}:Seen"], optimizer__lr=1e30)
    assert SEEN[-1][:2] == ("end", "failed")
    assert "not finite" in SEEN[-1][2]["error"] or "loss is" in SEEN[-1][2]["error"]


class StopsAt(Reporter):
    """Breaks a run off at a step."""

    def step(self, epoch: int, done: Done) -> None:
        if done.stats[0].step == 5:
            raise RuntimeError("broken off")


def test_a_run_that_goes_on_says_from_where(texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, pipeline__engine="local", train__epochs=3)
    tree["fault_tolerance"] = {"checkpoint_every_steps": 2}
    with pytest.raises(RuntimeError, match="broken off"):
        scpl_ray.train(tree, reporter=StopsAt())
    SEEN.clear()
    # Callbacks may differ from those of before.
    run = scpl_ray.train(tree | {"callbacks": [f"{ME}:Seen"]}, reporter=Reporter(), resume=True)
    start = SEEN[0][2]
    assert start.first_step in (2, 4)
    reports = [row[1] for row in SEEN if row[0] == "metrics"]
    assert reports[-1].step == run.summary["steps"]
    per_step = 32
    assert sum(m.samples for m in reports) <= (run.summary["steps"] - start.first_step) * per_step


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("mlfow", "unknown callback 'mlfow'.*Did you mean 'mlflow'"),
        ("tensorboard", "set output.tensorboard"),
        (f"{ME}:Notices", "not a class derived from scpl_ray.callbacks.Callback"),
        (f"{ME}:Sen", "unknown class 'Sen'.*Did you mean 'Seen'"),
        ({f"{ME}:Seen": {"marc": "x"}}, "marc: unknown option 'marc'; allowed: mark"),
        ({f"{ME}:Slow": {"x": 1}}, "it takes no options"),
    ],
)
def test_what_cannot_be_a_callback_is_said(entry: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        callback_classes([entry])


def test_it_is_said_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="unknown callback 'wandbx'.*Did you mean 'wandb'"):
        check_before(load_config({"callbacks": ["wandbx"]}))


def test_one_entry_names_one_callback() -> None:
    with pytest.raises(ConfigError, match="names 2 callbacks; write each as an entry of its own"):
        load_config({"callbacks": [{"mlflow": {}, "wandb": {}}]})


def test_the_command_line_takes_them(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from scpl_ray.callbacks import Callback\n"
        "class Last(Callback):\n"
        "    def on_end(self, status, summary):\n"
        "        open('last.txt', 'w').write(status)\n"
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(small_config(texts, tmp_path / "runs")))
    done = cli("train", "job.yaml", "--engine", "local", "callbacks=[mine:Last]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "last.txt").read_text() == "finished"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local store of MLflow, in a database file; its artifacts lie where the process is."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield f"sqlite:///{folder}/mlflow.db"


def test_mlflow_has_the_run(store: str, texts: Path, tmp_path: Path) -> None:
    import mlflow

    options = {"tracking_uri": store, "experiment": "tests", "tags": {"who": "a test"}}
    run, notices = train(texts, tmp_path / "runs", [{"mlflow": options}])
    assert notices == []
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.tags["who"] == "a test" and found.data.params["model.width"] == "16"
    for row in run.summary["exits"]:
        key = f"stage_{row['stage']}/test_accuracy"
        assert found.data.metrics[key] == pytest.approx(row["test_accuracy"])
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "stage_2/loss")]
    assert steps == sorted(steps) and steps[-1] == run.summary["steps"]
    files = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "summary.json", "events.txt"} <= files
    path = client.download_artifacts(found.info.run_id, "summary.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == run.summary


def test_mlflow_goes_on_with_a_run_that_is_resumed(store: str, tmp_path: Path) -> None:
    import mlflow

    kind = callback_classes([{"mlflow": {"tracking_uri": store}}])[0][1]
    plan = type("P", (), {"name": "a", "title": "t"})()
    ids = []
    for first_step in (0, 7):
        own = kind(tracking_uri=store)
        own.on_start(RunStart("a-1", plan, tmp_path, {"seed": 1}, first_step, lambda line: None))
        own.on_end("finished", {})
        ids.append(own.run_id)
    assert ids[0] == ids[1]
    assert mlflow.MlflowClient(store).get_run(ids[0]).info.status == "FINISHED"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_wandb_that_is_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"'wandb' needs .* pip install scpl-ray\[wandb\]"):
        callback_classes([{"wandb": {"project": "x"}}])


def test_wandb_offline(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    entry = {"wandb": {"project": "tests", "mode": "offline"}}
    run, notices = train(texts, tmp_path / "runs", [entry])
    assert notices == []
    (file,) = run.dir.glob("wandb/offline-run-*/run-*.wandb")
    assert file.stat().st_size > 1000
