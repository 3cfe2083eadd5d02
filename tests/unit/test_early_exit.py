"""Early exit and forward shortcut answer what the whole network's exits answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from scpl_ray.early_exit import Rule, entropy, leave_early, shortcut
from scpl_ray.models.activation import Activation
from scpl_ray.network import Network, load
from tests.helpers import run_job, small_config


def test_entropy_is_that_of_the_softmax():
    logits = torch.tensor([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    assert entropy(logits).tolist() == pytest.approx([math.log(3), 0.0])


def test_rows_take_the_same_samples_of_every_tensor():
    activation = Activation(
        torch.arange(4.0).reshape(4, 1), torch.eye(4).bool(), (torch.arange(8).reshape(2, 4),)
    )
    some = activation.rows(torch.tensor([False, True, False, True]))
    assert some.hidden.flatten().tolist() == [1.0, 3.0]
    assert some.mask is not None and torch.equal(some.mask, torch.eye(4).bool()[[1, 3]])
    assert some.states[0].tolist() == [[1, 3], [5, 7]]


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def network(request: pytest.FixtureRequest, texts: Path, tmp_path_factory) -> Network:
    tree = small_config(
        texts,
        tmp_path_factory.mktemp("runs"),
        model__kind=request.param,
        pipeline__engine="local",
        train__epochs=1,
        name="early",
    )
    return load(run_job(tree)[0].dir)


@pytest.fixture
def inputs(network: Network) -> dict[str, torch.Tensor]:
    texts = ["alpha", "xi xi nu mu", "beta gamma eta", "x", "lambda", "alpha xi beta mu"]
    return network.encode(texts)


@torch.no_grad()
def exits_of(network: Network, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return network(inputs)


def test_a_threshold_that_none_reaches_gives_the_last_exit(network, inputs):
    answers = leave_early(network, inputs, Rule(1.1))
    assert answers.stages.tolist() == [network.exits[-1]] * 6
    assert torch.equal(answers.logits, exits_of(network, inputs)[-1])


def test_a_threshold_that_all_reach_gives_the_first_exit(network, inputs):
    answers = leave_early(network, inputs, Rule(0.0))
    assert answers.stages.tolist() == [network.exits[0]] * 6
    assert torch.equal(answers.logits, exits_of(network, inputs)[0])


@pytest.mark.parametrize("measure", ["confidence", "entropy"])
def test_each_sample_is_answered_by_the_first_exit_that_is_sure(network, inputs, measure):
    every = exits_of(network, inputs)
    temperatures = {network.exits[0]: 0.7, network.exits[1]: 0.3}
    warm = [a / temperatures.get(s, 1.0) for s, a in zip(network.exits, every, strict=True)]
    firsts = entropy(warm[0]) if measure == "entropy" else warm[0].softmax(1).amax(1)
    rule = Rule(float(firsts.median()), measure, temperatures)
    answers = leave_early(network, inputs, rule)
    assert len(set(answers.stages.tolist())) > 1
    for i, stage in enumerate(answers.stages.tolist()):
        at = network.exits.index(stage)
        assert torch.allclose(answers.logits[i], warm[at][i], atol=1e-5)
        before = [bool(rule.sure(s, w)[i]) for s, w in zip(network.exits, warm, strict=True)][:at]
        assert not any(before)
        assert stage == network.exits[-1] or bool(rule.sure(stage, warm[at])[i])


def test_only_the_exits_that_are_named_answer(network, inputs):
    answers = leave_early(network, inputs, Rule(0.0, exits=frozenset({network.exits[1]})))
    assert set(answers.stages.tolist()) == {network.exits[1]}


def test_the_shortcut_is_the_answer_of_that_exit(network, inputs):
    for stage, logits in zip(network.exits, exits_of(network, inputs), strict=True):
        assert torch.equal(shortcut(network, inputs, stage), logits)
    with pytest.raises(ValueError, match="no exit"):
        shortcut(network, inputs, 9)
