"""Calibration, thresholds and their choice, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from scpl_ray.errors import CheckpointError
from scpl_ray.evaluate import Collected
from scpl_ray.exiting.calibration import ece, fit, per_class, temperature
from scpl_ray.exiting.compute import Costs
from scpl_ray.exiting.sweep import Aim, Point, Scored, candidates, spread, sweep
from scpl_ray.exiting.temperatures import ExitTemperature, in_use, save


def logits_of(*confidences: float) -> torch.Tensor:
    """Two classes; the first has these probabilities."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], 1)


def test_calibration_error_is_the_weighted_gap_of_each_bin():
    # Bins of width 0.2: {0.65, 0.75} in ]0.6, 0.8], one of two right; {0.9} in ]0.8, 1], wrong.
    logits, labels = logits_of(0.65, 0.75, 0.9), torch.tensor([0, 1, 1])
    by_hand = 2 / 3 * abs(1 / 2 - 0.70) + 1 / 3 * abs(0 - 0.9)
    assert ece(logits, labels, bins=5) == pytest.approx(by_hand)
    # One bin: the mean confidence against the accuracy.
    assert ece(logits, labels, bins=1) == pytest.approx(abs(1 / 3 - 2.3 / 3))
    # A confidence on an edge belongs to the bin below: 0.5 is not in one with 0.9.
    edge = ece(logits_of(0.5, 0.9), torch.tensor([0, 1]), bins=2)
    assert edge == pytest.approx((0.5 + 0.9) / 2)


def test_an_exit_that_is_right_as_often_as_it_says_has_no_error():
    logits, labels = logits_of(*[0.75] * 8), torch.tensor([0] * 6 + [1] * 2)
    assert ece(logits, labels) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_factor(factor):
    """6 of 8 right at logits 0 and log 3 is calibrated; so is any multiple, after division."""
    logits, labels = factor * logits_of(*[0.75] * 8), torch.tensor([0] * 6 + [1] * 2)
    assert temperature(logits, labels) == pytest.approx(factor, rel=1e-3)


def test_fit_lowers_the_loss_and_says_when_it_stopped_at_its_bound():
    labels = torch.tensor([0] * 6 + [1] * 2)
    right = logits_of(*[0.9] * 6, 0.1, 0.1)
    collected = Collected((2, 5), (3 * logits_of(*[0.75] * 8), right), labels, (8,))
    sharp, perfect = fit(collected)
    assert (sharp.stage, perfect.stage) == (2, 5)
    assert sharp.temperature == pytest.approx(3, rel=1e-3)
    assert sharp.loss_after < sharp.loss_before and sharp.ece_after < 1e-3 < sharp.ece_before
    assert perfect.at_bound and not sharp.at_bound


def test_calibrating_divides_the_logits_of_the_exit_named():
    logits = logits_of(0.6, 0.9)
    labels = torch.tensor([0, 0])
    collected = Collected((1, 2), (logits, logits), labels, (2,)).calibrated({2: 2.0})
    assert torch.equal(collected.logits[0], logits)
    assert torch.equal(collected.logits[1], logits / 2)


def test_accuracy_by_class():
    logits = torch.eye(4)[[0, 1, 1, 2]]
    assert per_class(logits, torch.tensor([0, 0, 1, 2]), 4) == [0.5, 1.0, 1.0, None]


@pytest.fixture
def scored() -> Scored:
    """Three exits, five samples; stages of 2, 1 and 1 layers; heads of 1 FLOP."""
    scores = torch.tensor(
        [[0.9, 0.8, 0.6, 0.5, 0.9], [0.5, 0.9, 0.7, 0.9, 0.5], [0.1, 0.1, 0.9, 0.9, 0.9]]
    )
    correct = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.bool)
    body = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    flops = (body.cumsum(0) + torch.tensor([1.0, 2.0, 3.0])).unsqueeze(1).expand(-1, 5)
    alone = (body.cumsum(0) + 1).unsqueeze(1).expand(-1, 5)
    costs = Costs(torch.tensor([2, 3, 4]), 4, flops, alone)
    return Scored(scores, correct, costs, "confidence")


def test_a_point_by_hand(scored):
    assert scored.stops(0.75).tolist() == [0, 0, 2, 1, 0]
    point = scored.point(0.75)
    assert point.accuracy == pytest.approx(4 / 5)
    assert point.answered == pytest.approx((0.6, 0.2, 0.2))
    assert point.layers == pytest.approx((2 + 2 + 4 + 3 + 2) / 20)
    assert point.flops == pytest.approx((11 + 11 + 63 + 32 + 11) / (5 * 61))
    assert scored.last == pytest.approx(0.8)


def test_entropy_is_sure_where_it_is_low(scored):
    unsure = Scored(1 - scored.scores, scored.correct, scored.costs, "entropy")
    assert unsure.stops(0.25).tolist() == scored.stops(0.75).tolist()


def test_candidates_go_from_all_leaving_to_none(scored):
    tried = candidates(scored, 2)
    assert tried[0] == 0.0 and tried[-1] == 1.0 and tried == sorted(tried)
    assert {0.6, 0.7, 0.9} <= set(tried)
    shares = [scored.point(t).flops for t in tried]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(63 / 61)
    unsure = Scored(1 - scored.scores, scored.correct, scored.costs, "entropy")
    ends = candidates(unsure, 2)[0], candidates(unsure, 2)[-1]
    assert ends == (pytest.approx(math.log(2), abs=1e-5), 0.0) and ends[0] >= math.log(2)


def points_of(*rows: tuple[float, float]) -> list[Point]:
    """(accuracy, FLOPs) each; layers are double."""
    return [Point(i / 10, a, (), min(1.0, 2 * f), f) for i, (a, f) in enumerate(rows)]


def test_the_best_threshold_for_a_loss_or_a_speed():
    points = points_of((0.80, 0.2), (0.895, 0.4), (0.91, 0.6), (0.90, 1.0))
    assert Aim(max_loss=0.005).best(points, 0.9) == points[1]
    assert Aim(max_loss=0.0).best(points, 0.9) == points[2]
    assert Aim(max_compute=0.6).best(points, 0.9) == points[2]
    assert Aim(max_compute=0.6, by="layers").best(points, 0.9) == points[0]
    assert Aim(max_loss=0.005, max_compute=0.5).best(points, 0.9) == points[1]
    assert Aim(max_loss=0.0, max_compute=0.5).best(points, 0.9) is None


def test_rows_of_the_table_lie_evenly_over_compute():
    points = points_of(*[(0.9, f / 100) for f in (1, 2, 3, 50, 51, 99, 100)])
    assert [p.flops for p in spread(points, 3)] == [0.01, 0.5, 1.0]


def test_a_threshold_is_chosen_on_one_split_and_reported_on_the_other(scored):
    other = Scored(scored.scores, ~scored.correct, scored.costs, "confidence")
    found = sweep((1, 2, 3), scored, other, 2, Aim(max_loss=0.0), {1: 2.0})
    assert found.best is not None and found.at_best is not None
    assert found.at_best.threshold == found.best.threshold
    assert found.best == scored.point(found.best.threshold)
    assert found.at_best.accuracy == pytest.approx(1 - found.best.accuracy)
    assert (found.last, found.last_chosen) == (pytest.approx(0.2), pytest.approx(0.8))
    assert found.shortcuts[1] == (pytest.approx(0.2), 0.75, pytest.approx(31 / 61))
    assert found.temperatures == {1: 2.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "manifest.json").write_text("{}")
    return tmp_path


ONE = ExitTemperature(
    stage=2, temperature=1.5, loss_before=1, loss_after=0.9, ece_before=0.2, ece_after=0.1
)


def test_temperatures_are_used_when_there_and_not_when_unwanted(folder):
    assert in_use(folder) == in_use(folder, False)
    assert not in_use(folder).values and not in_use(folder).said
    path = save(folder, [ONE], 40)
    assert path.name == "temperatures.json" and in_use(folder).values == {2: 1.5}
    assert str(path) in in_use(folder).said
    assert not in_use(folder, False).values
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "temperatures.json"]


def test_temperatures_of_another_checkpoint_are_not_used(folder):
    save(folder, [ONE], 40)
    (folder / "checkpoint" / "manifest.json").write_text('{"step": 2}')
    assert not in_use(folder).values
    assert "another checkpoint" in in_use(folder).said and "--calibrate" in in_use(folder).said
    with pytest.raises(CheckpointError, match="another checkpoint"):
        in_use(folder, True)


def test_temperatures_that_are_missing_or_damaged(folder):
    with pytest.raises(CheckpointError, match="--calibrate"):
        in_use(folder, True)
    path = save(folder, [ONE], 40)
    tree = json.loads(path.read_text())
    for text in ("", "[]", json.dumps(tree | {"format": 2}), json.dumps(tree | {"more": 1})):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="cannot be used"):
            in_use(folder)
    tree["exits"][0]["temperature"] = 0
    path.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="greater than 0"):
        in_use(folder)
