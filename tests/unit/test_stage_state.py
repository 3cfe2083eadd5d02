from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch
from safetensors.torch import load

import scpl_ray
from scpl_ray import schedule
from scpl_ray.config import Config, load_config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import PROBATION_STEPS, Ask, Done, Go, StageState
from scpl_ray.engine.build import build_stage, stage_state
from scpl_ray.engine.local import LocalEngine
from scpl_ray.errors import RunError, StageError
from scpl_ray.models import build_model
from scpl_ray.models.growth import extend
from scpl_ray.partition import partition
from scpl_ray.report import Reporter
from scpl_ray.stage import Stage, plan_stages
from scpl_ray.stage_facts import StageSpec
from tests.helpers import small_config
from tests.unit.tools import TEXT, build_stages, config, image_batch, image_info, text_batch

IMAGE = image_info(1, 8, 8)
HERE = "tests.unit.elastic_layers"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


# --- a stage goes on from its state --------------------------------------------------------------

BATCHES = [text_batch(seed) for seed in range(10)]


def one(settings: Config, info: DataInfo = TEXT, state: StageState | None = None) -> Stage:
    spec = plan_stages(settings, partition(build_model(settings, info).names, settings.stages))[0]
    return build_stage(spec, settings, info, 10, 5, "cpu", None, state=state)


def steps(stage: Stage, batches: list[Any], first: int) -> Stage:
    for step, (activation, labels) in enumerate(batches, first):
        stage.forward(step, activation, labels)
        stage.update(step)
    return stage


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__name": "adam"},
        {"optimizer": {"name": "adam", "weight_decay": 0.1, "schedule": "cosine"}},
        {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
        {"optimizer": {"name": "sgd", "momentum": 0.9}},
        {"optimizer": {"name": "sgd", "momentum": 0.0}},
        {"train__clip_norm": 0.01},
        {"local__projection_head": {"kind": "mlp_bn"}, "local__exit_head": {"kind": "mlp_bn"}},
        {"model__kind": "lstm"},
        {"model__dropout": 0.3},
    ],
)
def test_five_steps_and_five_more_are_ten(changes: dict[str, Any]) -> None:
    settings = config(stages=1, **changes)
    half = steps(one(settings), BATCHES[:5], 0)
    state = stage_state(half)
    again = one(settings, state=state)
    assert (state.next_step, again.next_step) == (5, 5)
    assert again.module.weights_sha256() == state.sha256
    assert stage_state(again) == state
    steps(again, BATCHES[5:], 5)
    whole = steps(one(settings), BATCHES, 0)
    assert stage_state(again) == stage_state(whole)
    # The state matters: with the weights alone it is another run.
    weights_only = one(settings)
    weights_only.load_state(load(state.weights), {})
    weights_only.begin(5)
    steps(weights_only, BATCHES[5:], 5)
    remembers = changes.get("optimizer", {}).get("momentum") != 0.0
    assert (stage_state(weights_only).sha256 != stage_state(whole).sha256) is remembers


def test_five_images_and_five_more_are_ten() -> None:
    settings = config(
        stages=1,
        model={"kind": "convnet", "channels": [4, 4]},
        local__exit_head={"kind": "mlp_bn"},
        train__clip_norm=0.5,
    )
    batches = [image_batch(IMAGE, 5 + n) for n in range(10)]
    half = steps(one(settings, IMAGE), batches[:5], 0)
    again = steps(one(settings, IMAGE, stage_state(half)), batches[5:], 5)
    assert stage_state(again) == stage_state(steps(one(settings, IMAGE), batches, 0))


def test_a_state_shares_nothing_with_its_stage() -> None:
    settings = config(stages=1)
    stage = steps(one(settings), BATCHES[:2], 0)
    before = stage_state(stage)
    other = one(settings)
    other.load_state(stage.module.named_state(), stage.optimizer_state())
    other.begin(2)
    steps(other, BATCHES[2:4], 2)
    assert stage_state(other).sha256 != before.sha256
    assert stage_state(stage) == before


def test_a_state_replaces_what_the_optimizer_remembers() -> None:
    settings = config(stages=1)
    fresh, used = one(settings), steps(one(settings), BATCHES[:2], 0)
    used.load_state(fresh.module.named_state(), fresh.optimizer_state())
    used.begin(0)
    assert stage_state(used) == stage_state(fresh)
    assert stage_state(steps(used, BATCHES, 0)) == stage_state(steps(fresh, BATCHES, 0))


def test_load_state_refuses_what_is_of_another_stage() -> None:
    first, second = build_stages(config())[:2]
    steps(first, BATCHES[:1], 0)
    weights = dict(second.module.named_state())
    with pytest.raises(KeyError):
        second.load_state(dict(first.module.named_state()), {})
    with pytest.raises(KeyError):
        second.load_state(weights, first.optimizer_state())


def test_moments_too_small_to_matter_are_cleared_now_and_then() -> None:
    stage = steps(one(config(stages=1)), BATCHES[:1], 0)
    assert stage.descent.optimizer is not None
    weight = next(p for p in stage.module.parameters() if p.shape[0] == TEXT.vocab_size)
    moment = stage.descent.optimizer.state[weight]["exp_avg"]
    unseen = min(set(range(2, TEXT.vocab_size)) - set(BATCHES[0][0].hidden.flatten().tolist()))
    moment[unseen] = 1e-35
    stage.begin(63)
    steps(stage, BATCHES[:1], 63)
    assert (moment[unseen] > 0).all()
    steps(stage, BATCHES[:1], 64)
    assert (moment[unseen] == 0).all()


def test_begin_fences() -> None:
    stage = one(config(stages=1))
    stage.begin(7)
    for wrong in (0, 6, 8):
        with pytest.raises(RuntimeError, match=f"step {wrong} came, but the next step is 7"):
            stage.forward(wrong, *BATCHES[0])
    stage.forward(7, *BATCHES[0])
    stage.begin(9)  # what it was about to learn is forgotten
    with pytest.raises(RuntimeError, match="update of step 7 without its forward"):
        stage.update(7)
    steps(stage, BATCHES[:1], 9)
    assert stage.next_step == 10


# --- the local engine ----------------------------------------------------------------------------


class Local:
    """A local engine, step by step."""

    def __init__(self, texts: Path, tmp_path: Path, first: int, **changes: Any) -> None:
        self.config = load_config(small_config(texts, tmp_path, **changes))
        self.engine = LocalEngine(self.config)
        self.info = self.engine.prepare_data().info
        names = build_model(self.config, self.info).names
        self.specs = plan_stages(self.config, partition(names, self.config.stages))
        self.engine.start(self.specs[:first], None)

    def train(self, first: int, after: int) -> list[Done]:
        return list(self.engine.run(schedule.Train(s, 0) for s in range(first, after)))

    def join(self, spec: StageSpec, step: int, settings: Config | None = None) -> None:
        candidate = self.engine.prepare(spec, settings or self.config, Ask())
        assert candidate.poll().state == "ready"
        self.engine.join(candidate, step)

    def states(self) -> list[StageState]:
        return list(self.engine.states())


@pytest.fixture
def local(texts: Path, tmp_path: Path) -> Iterator[Any]:
    made: list[Local] = []

    def make(first: int, **changes: Any) -> Local:
        made.append(Local(texts, tmp_path, first, **changes))
        return made[-1]

    yield make
    for one_of in made:
        one_of.engine.close()


def test_run_asks_at_each_boundary(local: Any) -> None:
    job, asked = local(4), []

    def boundary(work: schedule.Work) -> Go:
        asked.append(work.step)  # type: ignore[union-attr]
        return (
            Go.STOP if work == schedule.Train(2, 0) else Go([*["wait"] * 2, "on"][len(asked) % 3])
        )

    work = [schedule.Train(s, 0) for s in range(4)]
    done = list(job.engine.run(work, boundary))
    assert [d.work.step for d in done] == [0, 1]
    assert asked == [0, 0, 1, 1, 1, 2]
    assert [s.next_step for s in job.states()] == [2] * 4


def test_a_joined_stage_trains_from_its_step_on(local: Any) -> None:
    job, without = local(3), local(3)
    without.train(0, 6)
    job.train(0, 4)
    job.join(job.specs[3], 4)
    done = job.train(4, 6)
    assert [s.stage for s in done[0].stats] == [1, 2, 3, 4]
    assert job.engine.specs == job.specs
    assert [s.sha256 for s in job.states()[:3]] == [s.sha256 for s in without.states()]
    assert [s.next_step for s in job.states()] == [6] * 4


def test_a_stage_that_left_evaluates_and_comes_back_as_it_was(local: Any) -> None:
    job = local(4)
    job.train(0, 3)
    before = job.states()[3]
    assert job.engine.leave(job.config) == job.specs[3]
    assert (job.engine.specs, job.engine.parked) == (job.specs[:3], job.specs[3:])
    assert [s.stage for s in job.train(3, 5)[0].stats] == [1, 2, 3]
    (looked,) = job.engine.run([schedule.Evaluate("validation", 0, 0, True)])
    assert [s.stage for s in looked.scores] == [1, 2, 3, 4]
    assert job.states()[3] == before
    job.join(job.specs[3], 5)
    back = job.states()[3]
    assert (back.weights, back.optimizer) == (before.weights, before.optimizer)
    assert (back.next_step, job.engine.parked) == (5, [])
    job.train(5, 6)
    assert job.states()[3].sha256 != before.sha256


def test_a_start_that_fails_is_told(local: Any) -> None:
    job = local(4)
    candidate = job.engine.prepare(StageSpec(5, ("nothing",), True), job.config, Ask())
    assert candidate.poll().state == "failed"


def test_initial_weights_of_a_joined_stage_depend_on_its_name_alone(local: Any) -> None:
    job = local(4)
    job.train(0, 2)
    grown = extend(job.config)
    job.join(StageSpec(5, ("encoder.4",), True), 2, grown)
    there = local(5, model__layers=4)
    assert job.states()[4].sha256 == there.states()[4].sha256


# --- whole runs ----------------------------------------------------------------------------------


def trained(texts: Path, out: Path, name: str, **changes: Any) -> dict[str, Any]:
    tree = small_config(texts, out, pipeline__engine="local", name=name, **changes)
    return dict(scpl_ray.train(tree, reporter=Reporter()).summary)


def test_planned_growth_leaves_the_earlier_stages_as_they_are(texts: Path, tmp_path: Path) -> None:
    grown = trained(
        texts,
        tmp_path,
        "grown",
        elastic={"start_stages": 2, "grow_at": {"step": [3], "epoch": [1]}},
    )
    alone = trained(texts, tmp_path, "alone", model__layers=1)
    whole = trained(texts, tmp_path, "whole")
    assert grown["stages"] == whole["stages"]
    assert grown["weights_sha256"][:2] == alone["weights_sha256"] == whole["weights_sha256"][:2]
    assert not set(grown["weights_sha256"][2:]) & set(whole["weights_sha256"])
    per_epoch = grown["steps"] // 2
    assert [(g["stage"], g["step"], g["epoch"]) for g in grown["grown"]] == [
        (3, 3, 1),
        (4, per_epoch, 2),
    ]
    assert list(grown["grown"][0]["seconds"]) == ["queue", "build", "boundary", "total"]
    assert [row["stage"] for row in grown["exits"]] == [1, 2, 3, 4]


def test_growth_beyond_the_config(texts: Path, tmp_path: Path) -> None:
    grown = trained(texts, tmp_path, "grown", elastic={"grow_at": {"step": [2]}})
    whole = trained(texts, tmp_path, "whole")
    assert grown["stages"] == [*whole["stages"], ["encoder.4"]]
    assert grown["weights_sha256"][:4] == whole["weights_sha256"]
    network = scpl_ray.load(tmp_path / "grown")
    assert list(network.exits) == [1, 2, 3, 4, 5]


def test_shrink_then_grow_brings_the_stage_back(texts: Path, tmp_path: Path) -> None:
    whole = trained(texts, tmp_path, "whole")
    elastic = {"shrink_at": {"step": [3]}, "grow_at": {"step": [5]}}
    back = trained(texts, tmp_path, "back", elastic=elastic)
    at_once = {"shrink_at": {"step": [3]}, "grow_at": {"step": [3]}}
    same = trained(texts, tmp_path, "same", elastic=at_once)
    assert back["weights_sha256"][:3] == whole["weights_sha256"][:3]
    assert back["weights_sha256"][3] != whole["weights_sha256"][3]
    assert [(s["stage"], s["step"]) for s in back["shrunk"]] == [(4, 3)]
    assert [(g["stage"], g["step"], g["returned"]) for g in back["grown"]] == [(4, 5, True)]
    # At equal steps joining comes first: a fifth stage joins, and leaves before its first batch.
    assert [(s["stage"], s["layers"]) for s in same["shrunk"]] == [(5, ["encoder.4"])]
    assert same["weights_sha256"][:4] == whole["weights_sha256"]
    assert same["stages"][4:] == [["encoder.4"]]


def failing(texts: Path, out: Path, fails: dict[int, int], elastic: dict[str, Any]) -> Any:
    model = {"factory": f"{HERE}:bags", "options": {"layers": 4, "fails": fails}}
    return trained(texts, out, "run", model=model, elastic=elastic, train__epochs=4)


def test_a_stage_that_fails_on_probation_is_taken_out(texts: Path, tmp_path: Path) -> None:
    elastic = {"start_stages": 2, "grow_at": {"step": [2]}}
    summary = failing(texts, tmp_path, {2: PROBATION_STEPS - 1}, elastic)
    assert (summary["status"], summary["steps"]) == ("finished", 16)
    assert summary["stages"] == [["bag"], ["linear.1"]]
    assert summary["grown"] == []
    (record,) = summary["given_up"]
    assert (record["kind"], record["by"], record["state"]) == ("grow", "plan", "failed")
    assert "stage 3 was taken out: stage 3 at step 11 (input " in record["text"]
    assert "ArithmeticError: a broken layer" in record["text"]


def test_two_stages_taken_out_at_once_and_one_joins_again(texts: Path, tmp_path: Path) -> None:
    elastic = {"start_stages": 2, "grow_at": {"step": [2, 3, 8]}}
    summary = failing(texts, tmp_path, {2: 4}, elastic)
    # The third growth brings linear.2 back, new; it fails anew at its fifth batch.
    assert [r["state"] for r in summary["given_up"]] == ["failed"] * 3
    assert [r["stage"] for r in summary["given_up"]] == [4, 3, 3]
    assert summary["stages"] == [["bag"], ["linear.1"]]


def test_a_later_failure_ends_the_run(texts: Path, tmp_path: Path) -> None:
    elastic = {"start_stages": 2, "grow_at": {"step": [2]}}
    with pytest.raises(RunError, match="stage 3 at step 12 .*a broken layer"):
        failing(texts, tmp_path, {2: PROBATION_STEPS}, elastic)


def test_a_first_stage_has_no_probation(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="stage 2 at step 3"):
        failing(texts, tmp_path, {1: 3}, {})


def test_a_stage_is_lost_while_one_after_it_has_left(texts: Path, tmp_path: Path) -> None:
    model = {"factory": f"{HERE}:bags", "options": {"layers": 2, "fails": {2: 4}}}
    elastic = {"grow_at": {"step": [2, 3]}, "shrink_at": {"step": [4]}}
    trained(texts, tmp_path, "run", model=model, elastic=elastic)
    network = scpl_ray.load(tmp_path / "run")
    assert list(network.exits) == [1, 2]


def test_a_stage_that_left_and_fails_to_evaluate_is_told(
    local: Any, monkeypatch: MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ArithmeticError("a broken layer")

    job = local(3)
    job.join(job.specs[3], 0)
    job.train(0, 2)
    job.engine.leave(job.config)
    monkeypatch.setattr(job.engine.away[0], "evaluate", fail)
    try:
        (done,) = job.engine.run([schedule.Evaluate("validation", 0, 0, True)])
    except (StageError, ArithmeticError):
        return
    assert [spec.number for spec, _ in done.lost] == [4]
