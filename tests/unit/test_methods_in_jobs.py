"""Methods as a job meets them: what is refused or said beforehand, logs, growth and shrinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import scpl_ray
from scpl_ray.config import load_config
from scpl_ray.errors import ConfigError
from scpl_ray.job_checks import check_before
from scpl_ray.objectives import METHODS
from scpl_ray.report import Reporter
from tests.helpers import at, grow, run_job, shrink, small_config


class Notices(Reporter):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def tree(texts: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return small_config(texts, tmp_path, pipeline__engine="local", **changes)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("bp", "bp_p")])
def test_stages_join_and_leave(method: str, texts: Path, tmp_path: Path) -> None:
    settings = tree(
        texts,
        tmp_path,
        method=method,
        train__epochs=3,
        model__layers=2,
        elastic={"start_stages": 2, "grow_at": {"epoch": [1]}, "shrink_at": {"epoch": [2]}},
    )
    run, _ = run_job(settings)
    assert [g["stage"] for g in run.summary["grown"]] == [3]
    assert [g["stage"] for g in run.summary["shrunk"]] == [3]
    exits = [e["stage"] for e in run.summary["exits"]]
    assert exits == ([2, 3] if method == "scpl" else [1, 2, 3])
    assert all(e["test_accuracy"] is not None for e in run.summary["exits"])
    network = scpl_ray.load(run.dir)
    assert [logits.shape for logits in network(network.encode(["alpha beta", "xi"]))] == [
        (2, 2)
    ] * len(exits)


def test_the_log_names_the_parts(texts: Path, tmp_path: Path) -> None:
    settings = tree(texts, tmp_path, method="al", train__epochs=1, output__tensorboard=True)
    run = scpl_ray.train(settings, reporter=Reporter())
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    stage = rows[0]["stages"][0]
    assert stage["loss"] == pytest.approx(stage["associated"] + stage["autoencoder"], rel=1e-6)
    assert stage["contrastive"] is None
    assert "parts" not in stage
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.dir / "tensorboard")).Reload()
    assert "stage_1/associated" in events.Tags()["scalars"]


@pytest.mark.parametrize("method", ["bp", "bp_p"])
def test_end_to_end_with_one_stage_is_early_exit_with_one(
    method: str, texts: Path, tmp_path: Path
) -> None:
    one = tree(texts, tmp_path, method=method, stages=1, train__epochs=4)
    run = scpl_ray.train(one, reporter=Reporter())
    assert [e["stage"] for e in run.summary["exits"]] == [1]
    same = scpl_ray.train(one | {"method": "ee", "name": "ee"}, reporter=Reporter())
    assert run.summary["weights_sha256"] == same.summary["weights_sha256"]


@pytest.mark.parametrize(
    "elastic",
    [
        {"start_stages": 1},
        {"grow_at": {"epoch": [1]}},
        {"shrink_at": {"step": [3]}},
        {"grow_when": {}},
    ],
)
def test_end_to_end_stages_stay(elastic: dict[str, Any], texts: Path, tmp_path: Path) -> None:
    settings = load_config(tree(texts, tmp_path, method="bp_p", stages=1, elastic=elastic))
    with pytest.raises(
        ConfigError, match=f"elastic.{next(iter(elastic))}: .*neither join nor leave"
    ):
        check_before(settings)


@pytest.mark.parametrize("kind", ["grow", "shrink"])
def test_a_command_to_end_to_end_stages_is_refused(kind: str, texts: Path, tmp_path: Path) -> None:
    settings = tree(texts, tmp_path, method="bp_p", stages=1)
    command = grow() if kind == "grow" else shrink()
    seen: list[dict[str, Any]] = []

    def ask(job: Any) -> None:
        command(job)
        seen.extend(job.control.views())

    run_job(settings, [(at(1), ask)])
    assert [(v["state"], "neither join nor leave" in v["text"]) for v in seen] == [
        ("refused", True)
    ]


def test_options_without_effect_are_named(texts: Path, tmp_path: Path) -> None:
    settings = tree(texts, tmp_path, method="ee", train__epochs=1)
    settings["local"] = {
        "temperature": 0.5,
        "similarity": {"beta": 0.2},
        "exit_head": {"kind": "linear"},
    }
    reporter = Notices()
    scpl_ray.train(settings, reporter=reporter)
    idle = [n for n in reporter.notices if "no effect" in n]
    assert idle == [
        "local.temperature has no effect with method 'ee'",
        "local.similarity has no effect with method 'ee'",
    ]


def test_options_of_an_own_class(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    method = "own_objective:Prototypes"
    wrong = tree(texts, tmp_path, method=method, local={"options": {"push": 1}})
    with pytest.raises(ConfigError, match=r"Prototypes\(config, place, \*\*local.options\).*push"):
        check_before(load_config(wrong))
    right = tree(texts, tmp_path, method=method, local={"options": {"pull": 1}}, train__epochs=1)
    assert scpl_ray.train(right, reporter=Reporter()).summary["method"] == method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["transformer", "convnet"])
def test_checked_before_there_is_data(method: str, kind: str, texts: Path, tmp_path: Path) -> None:
    check_before(load_config(tree(texts, tmp_path, method=method, model__kind=kind, stages=1)))
