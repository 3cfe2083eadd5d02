from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.errors import NonFiniteLossError
from scpl_ray.losses import supervised_contrastive_loss
from scpl_ray.models import Activation, LayeredModel, LayerSpec
from scpl_ray.models.layers import flatten
from scpl_ray.objective import LocalObjective, has_exit
from scpl_ray.optim import learning_rate
from scpl_ray.stage import Run, Stage
from scpl_ray.stage_facts import StageSpec
from tests.unit.tools import (
    all_finite,
    build_stages,
    config,
    image_batch,
    image_info,
    text_batch,
    train,
)


def objective(with_exit: bool = True, **changes: Any) -> LocalObjective:
    return LocalObjective(config(**changes), 8, 2, "text", with_exit, "layer")


def reduced() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(6, 8, generator=draw).requires_grad_(), torch.tensor([0, 1, 1, 0, 0, 1])


def gradients(module: nn.Module) -> list[float]:
    return [0.0 if p.grad is None else float(p.grad.abs().sum()) for p in module.parameters()]


# --- the objective -------------------------------------------------------------------------------


def test_exit_loss_does_not_reach_the_layers() -> None:
    own, (x, labels) = objective(), reduced()
    loss = own(x, labels)
    assert loss.prediction is not None
    loss.prediction.backward()
    assert x.grad is None
    assert own.exit_head is not None
    assert all(g > 0 for g in gradients(own.exit_head))
    assert gradients(own.projection_head) == [0.0] * 4


def test_exit_loss_reaches_the_layers_if_asked() -> None:
    own, (x, labels) = objective(local__exit_head={"detach": False}), reduced()
    loss = own(x, labels)
    assert loss.prediction is not None
    loss.prediction.backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert gradients(own.projection_head) == [0.0] * 4


def test_contrastive_loss_reaches_layers_and_projection_head_but_not_the_exit() -> None:
    own, (x, labels) = objective(), reduced()
    own(x, labels).contrastive.backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(g > 0 for g in gradients(own.projection_head)[:3])
    assert own.exit_head is not None
    assert gradients(own.exit_head) == [0.0] * 4


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 3.0), (0.0, 1.0), (1.0, 0.0)])
def test_total_is_the_weighted_sum(weights: tuple[float, float]) -> None:
    own = objective(
        local__contrastive_weight=weights[0],
        local__prediction_weight=weights[1],
        local__temperature=0.3,
        local__normalization="standard",
    )
    x, labels = reduced()
    loss = own(x, labels)
    assert own.exit_head is not None
    contrastive = supervised_contrastive_loss(own.projection_head(x), labels, 0.3, "standard")
    prediction = F.cross_entropy(own.exit_head(x), labels)
    assert loss.prediction is not None
    assert torch.equal(loss.contrastive, contrastive)
    assert torch.equal(loss.prediction, prediction)
    assert loss.total.item() == pytest.approx(
        weights[0] * contrastive.item() + weights[1] * prediction.item(), rel=1e-6
    )
    assert loss.logits is not None
    assert torch.equal(loss.logits, own.exit_head(x))
    assert not loss.logits.requires_grad


def test_without_an_exit_there_is_only_the_contrastive_part() -> None:
    own, (x, labels) = objective(with_exit=False, local__contrastive_weight=0.5), reduced()
    loss = own(x, labels)
    assert loss.prediction is None
    assert loss.logits is None
    assert loss.total.item() == pytest.approx(0.5 * loss.contrastive.item())


def test_places_of_exits() -> None:
    assert [has_exit("scpl", k, 3) for k in (1, 2, 3)] == [False, False, True]
    assert [has_exit("dascpl", k, 3) for k in (1, 2, 3)] == [True, True, True]


@pytest.mark.parametrize(("method", "wanted"), [("scpl", [0, 0, 1]), ("dascpl", [1, 1, 1])])
def test_exits_of_built_stages(method: str, wanted: list[int]) -> None:
    stages = build_stages(config(method=method))
    assert [int(s.module.objective.exit_head is not None) for s in stages] == wanted
    stats = train(stages, [text_batch()])[0]
    assert [int(s.prediction is not None) for s in stats] == wanted
    assert [int(s.correct is not None) for s in stats] == wanted
    for s in stats:
        assert s.loss == pytest.approx(s.contrastive + (s.prediction or 0.0), rel=1e-6)


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
@pytest.mark.parametrize("method", ["scpl", "dascpl"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", ["identity", "mlp", "mlp_bn", "simsiam"])
def test_one_sample_and_a_tiny_temperature_stay_finite(
    kind: str, method: str, precision: str, head: str
) -> None:
    """The authors' code gets NaN weights from either."""
    stages = build_stages(
        config(
            model__kind=kind,
            method=method,
            train__precision=precision,
            local__temperature=1e-4,
            local__projection_head={"kind": head},
            local__exit_head={"kind": "mlp_bn"},
        )
    )
    batches = [text_batch(0, (4,)), text_batch(1), text_batch(2, (3,)), text_batch(3, (2, 5))]
    stats = train(stages, batches)
    assert all(all_finite(s.module) for s in stages)
    assert all(torch.isfinite(torch.tensor(s.loss)) for row in stats for s in row)
    assert [s.contrastive for s in stats[0]] == [0.0] * 3


@pytest.mark.parametrize("temperature", [1e-4, 0.1])
def test_convnet_of_one_sample_stays_finite(temperature: float) -> None:
    info = image_info(1, 8, 8)
    stages = build_stages(
        config(
            model__kind="convnet",
            model__channels=[4, 4],
            local__temperature=temperature,
            local__projection_head={"kind": "mlp_bn", "hidden": 8, "out": 8},
        ),
        info,
    )
    train(stages, [image_batch(info, 1), image_batch(info, 6), image_batch(info, 1)])
    assert all(all_finite(s.module) for s in stages)


def test_training_lowers_the_loss() -> None:
    stages = build_stages(config(optimizer__lr=0.01), total_steps=40)
    stats = train(stages, [text_batch()] * 40)
    for first, last in zip(stats[0], stats[-1], strict=True):
        assert last.loss < 0.7 * first.loss
        assert last.prediction is not None
        assert last.prediction < 0.1
        assert (last.correct, last.samples) == (4, 4)


def test_nothing_flows_back_between_stages() -> None:
    first, second = build_stages(config(stages=[1, 2]))
    activation, labels = text_batch()
    output = first.forward(0, activation, labels)
    assert not output.hidden.requires_grad
    second.forward(0, output, labels)
    second.update(0)
    assert all(p.grad is None for p in first.module.parameters())


def test_lstm_states_cross_detached() -> None:
    stages = build_stages(config(model__kind="lstm"))
    activation, labels = text_batch()
    for stage in stages:
        activation = stage.forward(0, activation, labels)
    assert [s.requires_grad for s in activation.states] == [False, False]


def test_stats_and_rate() -> None:
    settings = config(
        optimizer={"lr": 0.1, "schedule": "cosine", "stages": {2: {"lr": 0.3}}}, stages=[1, 2]
    )
    stages = build_stages(settings, total_steps=4)
    stats = train(stages, [text_batch(i) for i in range(3)])
    for step, row in enumerate(stats):
        for number, s in enumerate(row, 1):
            assert (s.stage, s.step, s.samples) == (number, step, 4)
            assert s.lr == learning_rate(settings.optimizer, number, step, 4, 5)
    assert [row[1].lr for row in stats] == pytest.approx([0.3, 0.25606601717798213, 0.15])
    assert stats[0][0].lonely_share == 0.0


def test_the_scheduled_rate_is_used() -> None:
    """SGD without momentum moves a weight by rate x gradient."""
    settings = config(
        optimizer={"name": "sgd", "momentum": 0.0, "lr": 1.0, "stages": {1: {"lr": 0.25}}}
    )
    stage = build_stages(settings)[0]
    before = {k: p.detach().clone() for k, p in stage.module.named_trainable().items()}
    train([stage], [text_batch()])
    for name, param in stage.module.named_trainable().items():
        assert param.grad is not None
        assert torch.allclose(param, before[name] - 0.25 * param.grad, atol=1e-7), name


# --- order of calls ------------------------------------------------------------------------------


def test_refuses_another_step_than_its_next() -> None:
    stage, (activation, labels) = build_stages(config())[0], text_batch()
    for wrong in (1, -1):
        with pytest.raises(RuntimeError, match=f"step {wrong} came, but the next step is 0"):
            stage.forward(wrong, activation, labels)
    stage.forward(0, activation, labels)
    stage.update(0)
    for wrong in (0, 2):
        with pytest.raises(RuntimeError, match=f"step {wrong} came, but the next step is 1"):
            stage.forward(wrong, activation, labels)
    stage.forward(1, activation, labels)
    assert stage.update(1).step == 1


def test_refuses_an_update_without_its_forward() -> None:
    stage, (activation, labels) = build_stages(config())[0], text_batch()
    before = stage.module.weights_sha256()
    with pytest.raises(RuntimeError, match="update of step 0 without its forward"):
        stage.update(0)
    stage.forward(0, activation, labels)
    with pytest.raises(RuntimeError, match="update of step 1 without its forward"):
        stage.update(1)
    assert stage.module.weights_sha256() == before


def test_refuses_to_learn_twice() -> None:
    stage, (activation, labels) = build_stages(config())[0], text_batch()
    stage.forward(0, activation, labels)
    stage.update(0)
    after = stage.module.weights_sha256()
    with pytest.raises(RuntimeError, match="without its forward"):
        stage.update(0)
    assert stage.module.weights_sha256() == after


def test_refuses_a_second_forward() -> None:
    stage, (activation, labels) = build_stages(config())[0], text_batch()
    stage.forward(0, activation, labels)
    with pytest.raises(RuntimeError, match="step 0 came"):
        stage.forward(0, activation, labels)


# --- non-finite losses ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_non_finite_loss_changes_nothing(kind: str) -> None:
    """Token 49 has an embedding of NaN."""
    stage = build_stages(config(model__kind=kind, stages=1))[0]
    train([stage], [text_batch(0), text_batch(1)])
    embedding = dict(stage.module.named_parameters())["stack.0.tokens.weight"]
    with torch.no_grad():
        embedding[49] = float("nan")
    weights = stage.module.weights_sha256()
    moments = {k: v.clone() for k, v in stage.optimizer_state().items()}
    activation, labels = text_batch(2)
    bad = activation.hidden.clone()
    bad[0, 0] = 49
    stage.forward(2, replace(activation, hidden=bad), labels)
    with pytest.raises(NonFiniteLossError, match="stage 1 at step 2: the loss is nan"):
        stage.update(2)
    assert stage.module.weights_sha256() == weights
    after = stage.optimizer_state()
    assert after.keys() == moments.keys()
    assert all(torch.equal(after[k], moments[k]) for k in moments)
    assert stage.next_step == 2
    stage.forward(2, activation, labels)
    assert stage.update(2).step == 2
    assert stage.module.weights_sha256() != weights


def test_non_finite_loss_leaves_the_parameters_of_a_convnet() -> None:
    info = image_info(1, 8, 8)
    stage = build_stages(config(model__kind="convnet", model__channels=[4], stages=1), info)[0]
    before = {k: p.detach().clone() for k, p in stage.module.named_trainable().items()}
    activation, labels = image_batch(info)
    activation.hidden[0, 0, 0, 0] = float("inf")
    stage.forward(0, activation, labels)
    with pytest.raises(NonFiniteLossError):
        stage.update(0)
    assert all(torch.equal(p, before[k]) for k, p in stage.module.named_trainable().items())


def test_a_batch_is_left_out_and_running_statistics_too() -> None:
    info = image_info(1, 8, 8)
    tree = config(
        model__kind="convnet",
        model__channels=[4],
        stages=1,
        local__projection_head={"kind": "mlp_bn"},
        fault_tolerance__on_nonfinite="skip",
    )
    stage, other = build_stages(tree, info)[0], build_stages(tree, info)[0]
    activation, labels = image_batch(info)
    poisoned = activation.hidden.clone()
    poisoned[0, 0, 0, 0] = float("inf")
    stage.forward(0, replace(activation, hidden=poisoned), labels)
    stats = stage.update(0)
    assert stats.skipped and not math.isfinite(stats.loss)
    assert stage.module.weights_sha256() == other.module.weights_sha256(), "buffers too"
    assert stage.next_step == 1
    # From here on it learns as a stage that never saw the batch.
    other.begin(1)
    for each in (stage, other):
        each.forward(1, activation, labels)
        assert not each.update(1).skipped
    assert stage.module.weights_sha256() == other.module.weights_sha256()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_finite_loss_with_a_gradient_that_is_not(policy: str) -> None:
    stage = build_stages(config(stages=1, fault_tolerance__on_nonfinite=policy))[0]
    activation, labels = text_batch()
    parameter = next(iter(stage.module.named_trainable().values()))
    parameter.register_hook(lambda grad: grad * float("inf"))
    before = stage.module.weights_sha256()
    stage.forward(0, activation, labels)
    if policy == "stop":
        with pytest.raises(NonFiniteLossError, match="its gradient is not"):
            stage.update(0)
    else:
        assert stage.update(0).skipped
    assert stage.module.weights_sha256() == before


# --- gradient clipping ---------------------------------------------------------------------------


def layer_weights(stage: Stage) -> dict[str, Tensor]:
    state = stage.module.named_state()
    return {k: v.clone() for k, v in state.items() if ".exit_head." not in k}


def clipped(method: str, clip: float | None, **changes: Any) -> list[dict[str, Tensor]]:
    settings = config(
        method=method,
        train__clip_norm=clip,
        optimizer={"name": "sgd", "lr": 0.5},
        model__dropout=0.2,
        **changes,
    )
    stages = build_stages(settings)
    train(stages, [text_batch(i) for i in range(5)])
    return [layer_weights(s) for s in stages]


@pytest.mark.parametrize("clip", [None, 0.01, 0.5])
def test_an_exit_head_does_not_touch_the_layers(clip: float | None) -> None:
    scpl, dascpl = clipped("scpl", clip), clipped("dascpl", clip)
    for ours, theirs in zip(scpl, dascpl, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name


def test_clipping_is_at_work() -> None:
    free, tight = clipped("dascpl", None), clipped("dascpl", 0.01)
    assert not torch.equal(
        free[1]["layers.encoder.1.encoder.linear1.weight"],
        tight[1]["layers.encoder.1.encoder.linear1.weight"],
    )


def test_norms_are_clipped_apart() -> None:
    stage = build_stages(config(train__clip_norm=0.01))[1]
    activation, labels = text_batch()
    hidden = torch.randn(*activation.hidden.shape, 8)
    stage.forward(0, activation.with_hidden(hidden), labels)
    stage.update(0)
    norms = []
    for group in stage.descent.groups:
        grads = [p.grad for p in group if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads])).item())
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


# --- randomness ----------------------------------------------------------------------------------


def digests(stages: list[Stage]) -> list[str]:
    return [s.module.weights_sha256() for s in stages]


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_global_random_history_does_not_matter(kind: str) -> None:
    settings = config(model__kind=kind, model__dropout=0.3)
    batches = [text_batch(i) for i in range(3)]
    torch.manual_seed(1)
    first = build_stages(settings)
    train(first, batches)
    torch.manual_seed(2)
    second = build_stages(settings)
    for step, (activation, labels) in enumerate(batches):
        for stage in second:
            torch.rand(step + 5)
            activation = stage.forward(step, activation, labels)
            torch.manual_seed(77)
            stage.update(step)
    assert digests(first) == digests(second)


def test_dropout_depends_on_seed_layer_and_step() -> None:
    activation = Activation(torch.ones(2, 3, 8))
    model = LayeredModel(
        tuple(LayerSpec(n, lambda: nn.Dropout(0.5), flatten, 24) for n in ("a", "b"))
    )

    def mask(seed: int, layer: str, step: int) -> Tensor:
        run = Run(config(seed=seed), 2, 10, 5)
        stage = Stage(StageSpec(1, (layer,), False), model, run, next_step=step)
        return stage.forward(step, activation, torch.tensor([0, 1])).hidden

    base = mask(0, "a", 0)
    assert torch.equal(mask(0, "a", 0), base)
    for other in (mask(1, "a", 0), mask(0, "b", 0), mask(0, "a", 1)):
        assert not torch.equal(other, base)


def test_another_seed_gives_other_weights() -> None:
    assert digests(build_stages(config(seed=0))) != digests(build_stages(config(seed=1)))


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_one_process_of_layers_computes_what_the_cut_stages_forward(kind: str) -> None:
    """The cut moves no dropout mask."""
    settings = {"model__kind": kind, "model__dropout": 0.3}
    activation, labels = text_batch()
    outputs = []
    for cut in ([1, 1, 1], [2, 1], [3]):
        passed = activation
        for stage in build_stages(config(**settings, stages=cut)):
            passed = stage.forward(0, passed, labels)
        outputs.append(passed.hidden)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


# --- evaluation, stash, state --------------------------------------------------------------------


def test_evaluate_learns_nothing_and_scores() -> None:
    stages = build_stages(config(model__dropout=0.5, method="scpl"))
    before = digests(stages)
    activation, labels = text_batch()
    passed = activation
    for stage in stages:
        passed, score = stage.evaluate(passed, labels)
        repeated, _ = stage.evaluate(activation, labels) if stage is stages[0] else (None, None)
        if repeated is not None:
            assert torch.equal(repeated.hidden, passed.hidden)
        if stage is not stages[-1]:
            assert (score.samples, score.correct, score.loss_sum) == (0, 0, 0.0)
    last = stages[-1].module
    assert last.objective.exit_head is not None
    logits = last.objective.exit_head(last.reduce(passed))
    assert score.stage == 3
    assert score.samples == 4
    assert score.correct == int((logits.argmax(1) == labels).sum())
    assert score.loss_sum == pytest.approx(4 * F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert digests(stages) == before


def test_evaluation_between_steps_does_not_change_training() -> None:
    settings, batches = config(model__dropout=0.3), [text_batch(i) for i in range(2)]
    plain, watched = build_stages(settings), build_stages(settings)
    train(plain, batches)
    for step, (activation, labels) in enumerate(batches):
        for stage in watched:
            activation = stage.forward(step, activation, labels)
            stage.update(step)
        passed, other = text_batch(9)
        for stage in watched:
            passed, _ = stage.evaluate(passed, other)
    assert digests(plain) == digests(watched)


def test_stash_and_restore() -> None:
    stage = build_stages(config(stages=1))[0]
    seen = []
    for epoch in range(3):
        stage.forward(epoch, *text_batch(epoch))
        stage.update(epoch)
        stage.stash(epoch)
        seen.append(stage.module.weights_sha256())
    assert len(set(seen)) == 3
    stage.restore_stash(0)
    assert stage.module.weights_sha256() == seen[0]
    stage.keep_stash(1, until=1)
    with pytest.raises(KeyError):
        stage.restore_stash(0)
    stage.restore_stash(2)
    assert stage.module.weights_sha256() == seen[2], "a later epoch's copy stays"
    stage.keep_stash(1, until=2)
    with pytest.raises(KeyError):
        stage.restore_stash(2)
    stage.restore_stash(1)
    assert stage.module.weights_sha256() == seen[1]
    stage.keep_stash(None, until=2)
    with pytest.raises(KeyError):
        stage.restore_stash(1)


def test_restored_buffers() -> None:
    info = image_info(1, 8, 8)
    stage = build_stages(config(model__kind="convnet", model__channels=[4], stages=1), info)[0]
    stage.stash(0)
    before = stage.module.weights_sha256()
    train([stage], [image_batch(info)])
    stage.restore_stash(0)
    assert stage.module.weights_sha256() == before


def test_digest_sees_one_bit_and_names() -> None:
    stage = build_stages(config())[1]
    before = stage.module.weights_sha256()
    state = stage.module.named_state()
    assert {k.split(".")[0] for k in state} == {"layers", "heads"}
    weight = state["layers.encoder.1.norm.weight"]
    weight[0] = torch.nextafter(weight[0], torch.tensor(2.0))
    assert stage.module.weights_sha256() != before


def test_load_named_takes_and_refuses() -> None:
    source, target = build_stages(config(seed=1))[1], build_stages(config(seed=2))[1]
    target.module.load_named(source.module.named_state())
    assert target.module.weights_sha256() == source.module.weights_sha256()
    state = dict(source.module.named_state())
    with pytest.raises(ValueError, match=r"norm.weight: shape \[9\] in the checkpoint, \[8\]"):
        target.module.load_named(state | {"layers.encoder.1.norm.weight": torch.ones(9)})
    del state["layers.encoder.1.norm.weight"]
    with pytest.raises(KeyError, match="norm.weight"):
        target.module.load_named(state)


def test_optimizer_state_is_named() -> None:
    stage = build_stages(config(stages=1))[0]
    assert stage.optimizer_state() == {}
    train([stage], [text_batch()])
    state = stage.optimizer_state()
    names = stage.module.named_trainable()
    assert {k.rsplit("/", 1)[0] for k in state} == set(names)
    for name, param in names.items():
        assert state[f"{name}/exp_avg"].shape == param.shape


def test_a_stage_without_weights_runs() -> None:
    model = LayeredModel((LayerSpec("a", nn.Identity, flatten, 4),))
    settings = config(local__projection_head={"kind": "identity"})
    stage = Stage(StageSpec(1, ("a",), False), model, Run(settings, 2, 10, 5))
    out = stage.forward(0, Activation(torch.randn(3, 4)), torch.tensor([0, 1, 0]))
    assert out.hidden.shape == (3, 4)
    assert stage.update(0).loss > 0
    assert stage.optimizer_state() == {}
