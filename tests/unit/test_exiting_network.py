"""Early exit of real networks: what is added up is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scpl_ray.early_exit import Rule, leave_early
from scpl_ray.evaluate import evaluate_network
from scpl_ray.exiting.compute import count, countable, flops_run
from scpl_ray.exiting.look import Look
from scpl_ray.exiting.plot import draw
from scpl_ray.exiting.sweep import Aim, Scored
from scpl_ray.exiting.timing import first_batches, time_answers
from scpl_ray.models.activation import Activation
from tests.helpers import run_job, small_config


@pytest.fixture(scope="module", params=["lstm", "transformer", "convnet"])
def look(request: pytest.FixtureRequest, texts: Path, tmp_path_factory) -> Look:
    tree = small_config(
        texts,
        tmp_path_factory.mktemp("runs"),
        model__kind=request.param,
        pipeline__engine="local",
        train__epochs=2,
        evaluate__batch_size=13,
        optimizer__lr=0.01,
        name="early",
    )
    if request.param == "convnet":
        tree["data"] = {"source": "digits", "limit": 200}
        tree["model"] = {"kind": "convnet", "channels": [4, 6, 8]}
    return Look(run_job(tree)[0].dir, "test")


def middle(look: Look, measure: str) -> float:
    """A threshold midway between two scores: rounding cannot decide there."""
    scores = Scored.of(look.collected(), look.costs(), measure).scores  # type: ignore[arg-type]
    values = scores[:-1].flatten().unique()
    gaps = values.diff()
    inner = slice(len(gaps) // 4, 3 * len(gaps) // 4 + 1)
    at = len(gaps) // 4 + int(gaps[inner].argmax())
    return float((values[at] + values[at + 1]) / 2)


@pytest.mark.parametrize("measure", ["confidence", "entropy"])
def test_the_sweep_says_what_leave_early_does(look, measure):
    threshold = middle(look, measure)
    scored = Scored.of(look.collected(), look.costs(), measure)
    rule = Rule(threshold, measure)
    stages = torch.cat([leave_early(look.network, a, rule).stages for a in look.given()])
    exits = torch.tensor(look.network.exits)
    assert torch.equal(exits[scored.stops(threshold)], stages)
    assert len(stages.unique()) > 1
    point, left = scored.point(threshold), look.leave(threshold, measure)
    assert point.accuracy == pytest.approx(left.accuracy)
    assert [round(a * len(stages)) for a in point.answered] == list(left.answered)
    assert point.layers == pytest.approx(left.taken.layers)


def test_flops_that_are_added_up_are_those_that_are_run(look):
    costs = look.costs()
    alone = len(look.network.exits) - 1
    assert costs.alone_shares(alone) == (1.0, 1.0)
    every = float(costs.flops[-1].sum())
    assert every > costs.whole
    assert flops_run(look.network, look.given(), Rule(1.1)) == pytest.approx(every)
    assert flops_run(look.network, look.given(), Rule(0.0)) == pytest.approx(
        float(costs.flops[0].sum())
    )
    rule = Rule(middle(look, "confidence"))
    point = Scored.of(look.collected(), costs, "confidence").point(rule.threshold)
    run = flops_run(look.network, look.given(), rule) / costs.whole
    assert point.flops == pytest.approx(run)


@pytest.mark.parametrize("look", ["lstm"], indirect=True)
def test_costs_lie_with_each_batch_and_grow_with_its_length(look):
    short = Activation(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool))
    long = Activation(torch.ones(1, 9, dtype=torch.long), torch.ones(1, 9, dtype=torch.bool))
    costs = count(look.network, [short, long])
    assert costs.flops.shape == (len(look.network.exits), 3)
    assert torch.equal(costs.flops[:, 0], costs.flops[:, 1])
    assert bool((costs.flops[1:, 2] > 2 * costs.flops[1:, 0]).all())


def test_the_counter_counts_what_is_written_in_the_books():
    """B T samples: LSTM 2 x 4H(D + H) a direction; attention 8 D^2 + 4 T D, feed-forward 4 D F."""
    b, t, d, h, f = 3, 5, 10, 7, 16
    given = torch.randn(b, t, d)
    lstm = nn.LSTM(d, h, batch_first=True, bidirectional=True).eval()
    encoder = nn.TransformerEncoderLayer(d, 2, f, batch_first=True, norm_first=True).eval()
    fast, fused = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    for module, by_hand in (
        (lstm, b * t * 2 * 2 * 4 * h * (d + h)),
        (encoder, b * t * (8 * d * d + 4 * t * d + 4 * d * f)),
    ):
        with torch.no_grad(), countable(), FlopCounterMode(display=False) as counter:
            module(given)
        assert counter.get_total_flops() == by_hand
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.mkldnn.enabled == fused


def test_collected_answers_score_as_the_evaluation(look):
    again = evaluate_network(look.network, "test")
    assert again == look.collected().results()
    assert [e.stage for e in again] == look.network.exits


def test_time_is_of_the_way_that_answers(look, monkeypatch):
    taken = first_batches(look.given(), 20)
    assert sum(len(a.hidden) for a in taken) >= 20 and len(taken) < len(look.given())
    # A second for each sample in each stage: what is timed is then known to the digit.
    passed, run_stage = [0], look.network.run_stage

    def tick(stage, activation, answer=True):
        passed[0] += len(activation.hidden)
        return run_stage(stage, activation, answer)

    monkeypatch.setattr(look.network, "run_stage", tick)
    first, last = look.network.exits[0], look.network.exits[-1]
    (one, half, same), whole_ms = time_answers(
        look.network, taken, [Rule(0.0), first, last], clock=lambda: float(passed[0])
    )
    assert whole_ms == same.ms_per_sample == 1000 * last and same.share == 1.0
    assert one.ms_per_sample == half.ms_per_sample == 1000 * first
    assert one.share == half.share == first / last < 1


def test_time_is_of_this_process(look):
    found, whole_ms = time_answers(look.network, look.given(), [Rule(0.0)])
    assert found[0].ms_per_sample > 0 and found[0].share > 0 and whole_ms > 0


def test_fitted_temperatures_are_used_from_then_on(look):
    before = look.collected().logits
    fitted, path = look.fit()
    try:
        assert [f.stage for f in fitted] == look.network.exits
        assert all(f.loss_after <= f.loss_before + 1e-6 for f in fitted)
        other = Look(look.folder, "test")
        for f, cold, warm in zip(fitted, before, other.collected().logits, strict=True):
            assert torch.equal(warm, cold / f.temperature)
        assert Look(look.folder, "test", False).temperatures.values == {}
    finally:
        path.unlink()
        look.__init__(look.folder, "test")


@pytest.mark.parametrize("look", ["transformer"], indirect=True)
def test_the_picture_of_a_sweep(look, tmp_path):
    swept = look.sweep("confidence", Aim(max_loss=0.0))
    draw(swept.sweep, swept.timed, "a title", tmp_path / "sweep.png")
    content = (tmp_path / "sweep.png").read_bytes()
    assert content.startswith(b"\x89PNG") and 10_000 < len(content) < 80_000
