"""Rounds of replicas, and what they mean for learning."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scpl_ray.balance import spread_devices
from scpl_ray.config import Config, load_config
from scpl_ray.engine.marks import Marks
from scpl_ray.errors import ConfigError, NonFiniteLossError
from scpl_ray.job_checks import check_before
from scpl_ray.models import Activation, LayeredModel, LayerSpec
from scpl_ray.models.layers import flatten
from scpl_ray.rounds import Rounds, ends_round
from scpl_ray.schedule import Snapshot, Train
from scpl_ray.share import Share, put_mean
from scpl_ray.stage import Run, Stage
from scpl_ray.stage_facts import StageSpec
from tests.unit.tools import config

LR = 0.05


def test_a_round_never_spans_two_epochs() -> None:
    ends = [step for step in range(14) if ends_round(step, 3, 7)]
    assert ends == [2, 5, 6, 9, 12, 13]
    assert [s for s in range(6) if ends_round(s, 1, 4)] == list(range(6))


def test_between_is_where_no_stage_is_in_a_round() -> None:
    rounds = Rounds.of([1, 2, 3], 7)
    assert [step for step in range(15) if rounds.between(step)] == [0, 6, 7, 13, 14]
    assert all(Rounds.of([1, 1], 7).between(step) for step in range(20))


def test_markers_come_between_rounds() -> None:
    marks = Marks(config(fault_tolerance__snapshot_every_steps=2).fault_tolerance)
    marks.rounds = Rounds.of([3], 10)
    found = marks.among([Train(i, i // 10) for i in range(20)])
    assert [m.step for m in found if isinstance(m, Snapshot)] == [3, 6, 9, 13, 16, 19]


def build(replicas: int, **changes: Any) -> Stage:
    """A stage without BatchNorm or dropout, in float64, so that batches can be joined."""
    tree = {"optimizer": {"name": "sgd", "momentum": 0.0, "lr": LR}, "replicas": {1: replicas}}
    own = config(**tree, **changes)
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh())
    model = LayeredModel((LayerSpec("layer", lambda: copy.deepcopy(layer), flatten, 8),), "text")
    stage = Stage(StageSpec(1, ("layer",), True), model, Run(own, 2, 100, 10))
    stage.module.double()
    return stage


def batches(count: int) -> list[tuple[Activation, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (Activation(torch.randn(6, 16, generator=draw, dtype=torch.float64)), torch.arange(6) % 2)
        for _ in range(count)
    ]


def weights(stage: Stage) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in stage.module.named_state().items()}


def test_a_round_is_a_step_on_the_concatenated_batch() -> None:
    """With a loss that is the mean of the batches' own, each with its own contrastive set."""
    stage, joined, given = build(3), build(1), batches(3)
    for step, (activation, labels) in enumerate(given):
        before = weights(stage)
        stage.forward(step, activation, labels)
        stage.update(step)
        if step < 2:
            assert all(torch.equal(v, before[k]) for k, v in weights(stage).items())
    module = joined.module
    whole = Activation(torch.cat([a.hidden for a, _ in given]))
    reduced = module.reduce(module.run_layers(whole, 0, 0))
    parts = reduced.split(6)
    losses = [
        module.objective(part, labels).total for part, (_, labels) in zip(parts, given, strict=True)
    ]
    torch.stack(losses).mean().backward()
    with torch.no_grad():
        for p in module.named_trainable().values():
            p -= LR * p.grad
    for name, value in weights(stage).items():
        torch.testing.assert_close(value, joined.module.named_state()[name], rtol=1e-7, atol=1e-9)


def test_a_short_round_is_the_mean_of_what_there_is() -> None:
    many, one, given = build(4), build(1), batches(10)
    many.begin(8)
    for step in range(8, 10):
        many.forward(step, *given[step])
        many.update(step)
    assert many.next_step == 10
    learned, untouched = weights(many), weights(one)
    assert not all(torch.equal(learned[k], untouched[k]) for k in learned)


def test_skipped_batches_are_left_out_of_the_mean() -> None:
    given = batches(2)
    bad = Activation(torch.full_like(given[0][0].hidden, float("nan")))
    skips = build(2, fault_tolerance__on_nonfinite="skip")
    skips.forward(0, bad, given[0][1])
    assert skips.update(0).skipped
    skips.forward(1, *given[1])
    assert not skips.update(1).skipped
    alone = build(1)
    alone.begin(1)
    alone.forward(1, *given[1])
    alone.update(1)
    for name, value in weights(skips).items():
        torch.testing.assert_close(value, weights(alone)[name], rtol=0, atol=0)
    stops = build(2)
    stops.forward(0, bad, given[0][1])
    with pytest.raises(NonFiniteLossError):
        stops.update(0)


def test_mean_of_buffers_and_of_gradients_that_not_all_have() -> None:
    norm, free = nn.BatchNorm1d(2), nn.Parameter(torch.zeros(1))
    one = Share([torch.ones(2), None, None], [torch.zeros(2), torch.ones(2), torch.tensor(5)])
    two = Share(
        [torch.ones(2) * 3, torch.ones(2), None], [torch.ones(2), torch.ones(2), one.buffers[2]]
    )
    put_mean([one, two], [norm.weight, norm.bias, free], list(norm.buffers()))
    assert norm.weight.grad is not None and norm.bias.grad is not None
    assert norm.weight.grad.tolist() == [2, 2] and norm.bias.grad.tolist() == [0.5, 0.5]
    assert free.grad is None
    assert norm.running_mean is not None and norm.running_mean.tolist() == [0.5, 0.5]
    assert int(norm.num_batches_tracked) == 5  # type: ignore[arg-type]


def test_a_batch_out_of_its_round_is_refused() -> None:
    stage, given = build(2), batches(1)
    with pytest.raises(RuntimeError, match="step 2 came"):
        stage.forward(2, *given[0])
    with pytest.raises(RuntimeError, match="without its forward"):
        stage.share(0)


def test_devices_go_to_the_slowest() -> None:
    assert spread_devices([1.0, 4.0, 2.0], 3) == [1, 1, 1]
    assert spread_devices([1.0, 4.0, 2.0], 7) == [1, 4, 2]
    assert spread_devices([3.0], 2) == [2]
    assert spread_devices([1.0, 1.0], 1) == [1, 1]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"replicas": {"two": 2}}, "replicas"),
        ({"replicas": {2: 0}}, "replicas"),
        ({"replicas": "auot"}, "Did you mean 'auto'?"),
        ({"replicas": {1: 2}, "pipeline": {"batches_per_call": 4}}, "does not go with `replicas`"),
    ],
)
def test_what_a_user_can_mend(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tree)
    assert said in str(caught.value)


def test_a_stage_that_is_none() -> None:
    own: Config = config(replicas={4: 2}, data__source="digits", model__kind="convnet")
    with pytest.raises(ConfigError, match="replicas: 4 is not a stage; allowed: 1 to 3"):
        check_before(own)


def test_counts() -> None:
    own = config(replicas={2: 3})
    assert [own.replicas_of(k) for k in (1, 2, 3)] == [1, 3, 1]
    assert own.processes(1) == 1 and own.processes(3) == 5
    assert own.rounds(5) == Rounds((3,), 5)
