"""Each local objective against its formula in python floats, its gradients, and who learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jsonschema import Draft202012Validator
from torch import Tensor, nn
from torch.func import functional_call

from scpl_ray.config import load_config
from scpl_ray.config.schema import Config
from scpl_ray.errors import ConfigError
from scpl_ray.objective import LocalObjective, has_exit
from scpl_ray.objectives import METHODS, objective_class
from scpl_ray.objectives.base import Objective, Place
from tests.unit.tools import (
    TEXT,
    all_finite,
    build_stages,
    config,
    image_batch,
    image_info,
    text_batch,
    train,
)

LABELS = [0, 1, 2, 0, 0, 2]
CHECKED = torch.tensor(LABELS)
NEW = ["ee", "bp", "bp_p", "al", "sim_pred", "deinforeg"]
STREAMED = [m for m in METHODS if m not in ("bp", "bp_p")]
Row = list[float]


def made(
    method: str, style: str = "text", place: dict[str, Any] | None = None, **local: Any
) -> Any:
    """An objective in float64 for 4 features and 3 classes, with a linear exit head."""
    local.setdefault("exit_head", {"kind": "linear"})
    settings = config(method=method, local=local)
    where = {"layer": "x", "features": 4, "classes": 3, "style": style, "with_exit": True}
    return objective_class(method)(settings, Place(**(where | (place or {})))).double()


def draw(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- the formulas, with nothing but python floats -------------------------------------------------


def linear(layer: nn.Module, rows: list[Row]) -> list[Row]:
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [
        [
            b + sum(w * v for w, v in zip(ws, row, strict=True))
            for ws, b in zip(weight, bias, strict=True)
        ]
        for row in rows
    ]


def each(function: Any, rows: list[Row]) -> list[Row]:
    return [[function(v) for v in row] for row in rows]


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def cross_entropy(rows: list[Row], labels: list[int]) -> float:
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        total += math.log(sum(math.exp(v) for v in row)) - row[label]
    return total / len(rows)


def mean_square(ours: list[Row], theirs: list[Row]) -> float:
    pairs = [
        (a, b)
        for row, other in zip(ours, theirs, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def one_hot(labels: list[int], classes: int = 3) -> list[Row]:
    return [[float(c == label) for c in range(classes)] for label in labels]


def adjusted_cosines(rows: list[Row]) -> list[Row]:
    centred = [[v - sum(row) / len(row) for v in row] for row in rows]
    lengths = [math.sqrt(sum(v * v for v in row)) for row in centred]
    return [
        [
            sum(p * q for p, q in zip(a, b, strict=True)) / (m * n)
            for b, n in zip(centred, lengths, strict=True)
        ]
        for a, m in zip(centred, lengths, strict=True)
    ]


def similarity_by_hand(rows: list[Row], labels: list[int]) -> float:
    return mean_square(adjusted_cosines(rows), adjusted_cosines(one_hot(labels)))


def convolved(weight: list[Any], maps: list[Any]) -> list[Any]:
    """A 3x3 convolution with a border of zeros, one loop per index."""
    out = []
    for image in maps:
        height, width = len(image[0]), len(image[0][0])
        planes = []
        for kernel in weight:
            plane = [[0.0] * width for _ in range(height)]
            for y in range(height):
                for x in range(width):
                    for c, source in enumerate(image):
                        for dy in (-1, 0, 1):
                            for dx in (-1, 0, 1):
                                if 0 <= y + dy < height and 0 <= x + dx < width:
                                    plane[y][x] += (
                                        kernel[c][dy + 1][dx + 1] * source[y + dy][x + dx]
                                    )
            planes.append(plane)
        out.append(planes)
    return out


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_early_exit(weight: float) -> None:
    own, x = made("ee", prediction_weight=weight), draw(6, 4)
    loss = own(x, CHECKED)
    by_hand = cross_entropy(linear(own.exit_head, x.tolist()), LABELS)
    assert loss.prediction.item() == pytest.approx(by_hand, rel=1e-12)
    assert loss.total.item() == pytest.approx(weight * by_hand, rel=1e-12)
    assert loss.contrastive is None


@pytest.mark.parametrize("style", ["text", "image"])
@pytest.mark.parametrize("reconstruction", ["mse", "cross_entropy"])
def test_associated_learning(style: str, reconstruction: str) -> None:
    associated = {"width": 5, "reconstruction": reconstruction}
    own, x = made("al", style, associated=associated), draw(6, 4)
    squash = math.tanh if style == "text" else sigmoid
    bridge, decoder = own.exit_head
    met = x.tolist()
    for layer in bridge:
        met = linear(layer, met) if isinstance(layer, nn.Linear) else each(squash, met)
    code = each(squash, linear(own.label_encoder[0], one_hot(LABELS)))
    if reconstruction == "mse":
        decoded = each(squash, linear(decoder[0], code))
        autoencoder = mean_square(decoded, one_hot(LABELS))
        answer = each(squash, linear(decoder[0], met))
    else:
        autoencoder = cross_entropy(linear(decoder, code), LABELS)
        answer = linear(decoder, met)
    loss = own(x, CHECKED)
    assert loss.parts["associated"].item() == pytest.approx(mean_square(met, code), rel=1e-12)
    assert loss.parts["autoencoder"].item() == pytest.approx(autoencoder, rel=1e-12)
    assert loss.total.item() == pytest.approx(mean_square(met, code) + autoencoder, rel=1e-12)
    assert torch.allclose(loss.logits, torch.tensor(answer, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(own.exit_head(x), loss.logits, atol=1e-12)
    assert loss.prediction.item() == pytest.approx(cross_entropy(answer, LABELS), rel=1e-12)
    linears = [m.out_features for m in bridge if isinstance(m, nn.Linear)]
    assert linears == ([5] if style == "text" else [25, 5])


@pytest.mark.parametrize("beta", [0.99, 0.4])
def test_similarity_and_prediction_of_vectors(beta: float) -> None:
    own, x = made("sim_pred", similarity={"beta": beta}), draw(6, 4)
    loss = own(x, CHECKED, None)
    similarity = similarity_by_hand(linear(own.similarity_head, x.tolist()), LABELS)
    prediction = cross_entropy(linear(own.exit_head, x.tolist()), LABELS)
    assert loss.parts["similarity"].item() == pytest.approx(similarity, rel=1e-12)
    assert loss.total.item() == pytest.approx(
        (1 - beta) * prediction + beta * similarity, rel=1e-12
    )


@pytest.mark.parametrize(("channels", "side"), [(4, 3), (2, 3), (4, 1)])
def test_similarity_and_prediction_of_maps(channels: int, side: int) -> None:
    place = {"channels": channels, "features": channels * side * side}
    own, maps = made("sim_pred", "image", place), draw(6, channels, side, side)
    rows = []
    for image in convolved(own.similarity_head.weight.tolist(), maps.tolist()):
        planes = [[v for line in plane for v in line] for plane in image]
        if channels > 3 and side > 1:
            row = []
            for plane in planes:
                mean = sum(plane) / len(plane)
                row.append(math.sqrt(sum((v - mean) ** 2 for v in plane) / (len(plane) - 1)))
            rows.append(row)
        else:
            rows.append([v for plane in planes for v in plane])
    loss = own(maps.flatten(1), CHECKED, maps)
    assert loss.parts["similarity"].item() == pytest.approx(
        similarity_by_hand(rows, LABELS), rel=1e-10
    )


def test_deinforeg() -> None:
    weights = {"variance": 0.7, "invariance": 1.3, "covariance": 2.0}
    own = made("deinforeg", deinforeg=weights, projection_head={"kind": "linear", "out": 5})
    x = draw(6, 4)
    z = linear(own.projection_head, x.tolist())
    z = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in z]
    count, width = 6, 5
    means = [sum(row[d] for row in z) / count for d in range(width)]
    variance = 0.0
    for d in range(width):
        spread = sum((row[d] - means[d]) ** 2 for row in z) / (count - 1)
        variance += max(0.0, 1 - math.sqrt(spread + 1e-7))
    variance /= width * count
    covariance = 0.0
    for d in range(width):
        for e in range(width):
            if d != e:
                both = sum((row[d] - means[d]) * (row[e] - means[e]) for row in z) / count
                covariance += both**2
    covariance /= width
    invariance = similarity_by_hand(z, LABELS)
    loss = own(x, CHECKED)
    found = {name: part.item() for name, part in loss.parts.items()}
    by_hand = {"variance": variance, "invariance": invariance, "covariance": covariance}
    assert found == pytest.approx(by_hand, rel=1e-12)
    prediction = cross_entropy(linear(own.exit_head, x.tolist()), LABELS)
    total = sum(weights[name] * by_hand[name] for name in weights) + prediction
    assert loss.total.item() == pytest.approx(total, rel=1e-12)


def test_a_perfect_feature_has_no_similarity_loss() -> None:
    own = made("deinforeg", projection_head={"kind": "identity"})
    same = torch.tensor(one_hot(LABELS, 4), dtype=torch.float64)
    # Four dimensions for three classes: other means, so other cosines than those of the labels.
    assert own(same, CHECKED).parts["invariance"].item() > 0.01
    fitting = made("deinforeg", place={"features": 3}, projection_head={"kind": "identity"})
    assert fitting(same[:, :3], CHECKED).parts["invariance"].item() < 1e-15


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "local", "channels"),
    [
        ("scpl", {"temperature": 0.5}, None),
        ("ee", {}, None),
        ("bp", {}, None),
        ("bp_p", {}, None),
        ("al", {"associated": {"width": 3}}, None),
        ("al", {"associated": {"width": 3, "reconstruction": "cross_entropy"}}, None),
        ("sim_pred", {"similarity": {"beta": 0.6}}, None),
        ("sim_pred", {"similarity": {"beta": 0.6}}, 4),
        ("deinforeg", {"projection_head": {"kind": "mlp", "hidden": 3, "out": 3}}, None),
    ],
)
def test_gradients_of_features_and_heads(
    method: str, local: dict[str, Any], channels: int | None
) -> None:
    # A detached exit has no gradient to check against differences.
    detached = {"prediction_weight": 0.0} if method in ("scpl", "deinforeg") else {}
    features = 4 if channels is None else 4 * channels
    own = made(method, "text", {"channels": channels, "features": features}, **local, **detached)
    names = [name for name, _ in own.named_parameters()]
    given = draw(6, features) if channels is None else draw(6, channels, 2, 2)

    def total(x: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        hidden = None if channels is None else x
        loss: Tensor = functional_call(own, weights, (x.flatten(1), CHECKED, hidden)).total
        return loss

    inputs = [given, *(p.detach().clone() for _, p in own.named_parameters())]
    assert torch.autograd.gradcheck(total, tuple(t.requires_grad_() for t in inputs))


@pytest.mark.parametrize(
    ("method", "learns"),
    [
        ("scpl", False),
        ("dascpl", False),
        ("ee", True),
        ("bp", True),
        ("bp_p", True),
        ("al", False),
        ("sim_pred", True),
        ("deinforeg", False),
    ],
)
def test_whether_the_answer_trains_the_stage(method: str, learns: bool) -> None:
    own, x = made(method), draw(6, 4).requires_grad_()
    prediction = own(x, CHECKED).prediction
    if prediction.requires_grad:
        prediction.backward()
    assert (x.grad is not None) is learns


@pytest.mark.parametrize("method", ["dascpl", "deinforeg"])
def test_a_gradient_that_is_let_through(method: str) -> None:
    own = made(method, exit_head={"kind": "linear", "detach": False})
    x = draw(6, 4).requires_grad_()
    own(x, CHECKED).prediction.backward()
    assert x.grad is not None


@pytest.mark.parametrize("detach", [False, True])
def test_whether_the_label_code_meets_the_feature(detach: bool) -> None:
    own = made("al", associated={"detach_target": detach})
    x = draw(6, 4).requires_grad_()
    own(x, CHECKED).parts["associated"].backward()
    moved = [p.grad is not None for p in own.label_encoder.parameters()]
    assert moved == [not detach] * 2
    assert x.grad is not None
    assert all(p.grad is not None for p in own.exit_head.bridge.parameters())
    assert all(p.grad is None for p in own.exit_head.decoder.parameters())


def test_detached_exits_listen_in() -> None:
    """All layers get the gradient of plain backpropagation; every exit head learns."""
    settings = config(method="bp_p")
    stages = [stage.module for stage in build_stages(settings)]
    activation, labels = text_batch()
    losses = []
    for module in stages:
        activation = module.run_layers(activation, None, 0)
        losses.append(module.local_loss(activation, labels).total)
    sum(losses).backward()
    plain = [stage.module for stage in build_stages(settings)]
    activation, labels = text_batch()
    for module in plain:
        activation = module.run_layers(activation, None, 0)
    logits = plain[-1].objective.exit_head(plain[-1].reduce(activation))
    F.cross_entropy(logits, labels).backward()
    for ours, theirs in zip(stages, plain, strict=True):
        for a, b in zip(ours.stack.parameters(), theirs.stack.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
        assert all(p.grad is not None for p in ours.objective.exit_head.parameters())


def test_early_exit_of_one_stage_is_backpropagation() -> None:
    settings = config(method="ee", stages=1, train__clip_norm=0.01, optimizer={"name": "sgd"})
    (stage,), (plain,) = build_stages(settings), build_stages(settings)
    batches = [text_batch(i) for i in range(3)]
    train([stage], batches)
    module = plain.module.train()
    parameters = list(module.named_trainable().values())
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    for activation, labels in batches:
        output = module.run_layers(activation, None, 0)
        optimizer.zero_grad()
        F.cross_entropy(module.objective.exit_head(module.reduce(output)), labels).backward()
        nn.utils.clip_grad_norm_(parameters, 0.01)
        optimizer.step()
    for name, value in stage.module.named_trainable().items():
        assert torch.allclose(value, module.named_trainable()[name], atol=1e-7), name


# --- as stages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", STREAMED)
@pytest.mark.parametrize("kind", ["transformer", "lstm", "convnet"])
def test_every_method_learns(method: str, kind: str) -> None:
    images = kind == "convnet"
    info = image_info(1, 8, 8) if images else TEXT
    settings = config(
        method=method,
        model__kind=kind,
        model__channels=[4, 8],
        optimizer__lr=0.002 if images else 0.01,
    )
    batch = image_batch(info) if images else text_batch()
    stages = build_stages(settings, info, total_steps=60)
    stats = train(stages, [batch] * 60)
    for first, last in zip(stats[0], stats[-1], strict=True):
        assert last.loss < first.loss
    assert stats[-1][-1].correct == len(batch[1])
    wanted = [int(has_exit(method, k, len(stages))) for k in range(1, len(stages) + 1)]
    assert [int(s.correct is not None) for s in stats[0]] == wanted


@pytest.mark.parametrize("method", STREAMED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_sample_stays_finite(method: str, precision: str) -> None:
    info = image_info(1, 8, 8)
    images = config(
        method=method,
        model__kind="convnet",
        model__channels=[4, 4],
        train__precision=precision,
        local__projection_head={"kind": "mlp_bn", "hidden": 8, "out": 8},
    )
    for settings, data, batches in (
        (
            config(method=method, train__precision=precision),
            TEXT,
            [text_batch(0, (4,)), text_batch(1)],
        ),
        (images, info, [image_batch(info, 1), image_batch(info, 6)]),
    ):
        stages = build_stages(settings, data)
        stats = train(stages, batches * 2)
        assert all(all_finite(stage.module) for stage in stages)
        assert all(math.isfinite(s.loss) for row in stats for s in row)


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_are_finite(method: str, value: float) -> None:
    own = made(method, place={"channels": 4} if method == "sim_pred" else {})
    maps = torch.full((6, 4, 2, 2), value, dtype=torch.float64, requires_grad=True)
    reduced = maps.mean((2, 3))
    loss = own(reduced, CHECKED, maps)
    loss.total.backward()
    assert loss.total.isfinite()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("method", list(METHODS))
def test_heads_belong_to_layers(method: str) -> None:
    """The cut moves no initial weight, and a stage takes back what it gave."""
    fine = build_stages(config(method=method, stages=[1, 1, 1]))
    coarse = build_stages(config(method=method, stages=[1, 2]))
    ours, theirs = fine[0].module.named_state(), coarse[0].module.named_state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    ours, theirs = fine[2].module.named_state(), coarse[1].module.named_state()
    heads = {k for k in ours if k.startswith("heads.encoder.2.")}
    assert heads == {k for k in theirs if k.startswith("heads.")}
    assert heads
    assert all(torch.equal(ours[k], theirs[k]) for k in heads)
    other = build_stages(config(method=method, stages=[1, 1, 1], seed=5))[2].module
    other.load_named(ours)
    assert other.weights_sha256() == fine[2].module.weights_sha256()


def test_names_of_heads() -> None:
    wanted = {
        "scpl": {"projection_head", "exit_head"},
        "dascpl": {"projection_head", "exit_head"},
        "ee": {"exit_head"},
        "bp": {"exit_head"},
        "bp_p": {"exit_head"},
        "al": {"exit_head", "label_encoder"},
        "sim_pred": {"exit_head", "similarity_head"},
        "deinforeg": {"exit_head", "projection_head"},
    }
    assert wanted.keys() == METHODS.keys()
    for method, names in wanted.items():
        assert {key.split(".")[0] for key in made(method).state_dict()} == names


@pytest.mark.parametrize(("pool", "features"), [(None, 4 * 16), (2, 4 * 4), (1, 4)])
@pytest.mark.parametrize("method", ["dascpl", "sim_pred"])
def test_pooling_comes_before_both_heads(method: str, pool: int | None, features: int) -> None:
    info = image_info(1, 8, 8)
    local = {"pool": pool, "exit_head": {"kind": "linear"}, "projection_head": {"kind": "linear"}}
    settings = config(method=method, model__kind="convnet", model__channels=[4], local=local)
    own = build_stages(settings, info)[0].module.objective
    assert (own.exit_head.in_features, own.exit_head.out_features) == (features, 3)
    if method == "dascpl":
        assert own.projection_head.in_features == features
    else:
        assert own.similarity_head.weight.shape == (4, 4, 3, 3)


# --- the registry --------------------------------------------------------------------------------


def test_every_method_is_an_objective() -> None:
    for method in METHODS:
        own = objective_class(method)
        assert issubclass(own, Objective)
        known = Config.model_fields["local"].annotation.model_fields
        assert set(own.reads) <= set(known)
    assert [m for m in METHODS if objective_class(m).exits == "last"] == ["bp", "scpl"]
    assert [has_exit("ee", k, 2) for k in (1, 2)] == [True, True]


@pytest.mark.parametrize("method", ["eee", "bpp", "", ":", "a:", ":B", "a b:C", 3, None, ["ee"]])
def test_unknown_methods(method: object) -> None:
    with pytest.raises(
        ConfigError, match=r"method: .* is not accepted: allowed: bp, scpl, dascpl, ee"
    ):
        load_config({"method": method})


def test_the_schema_knows_the_methods() -> None:
    validator = Draft202012Validator(Config.model_json_schema())
    for method in (*METHODS, "my_objective:Mine", "a.b:C"):
        assert validator.is_valid({"method": method}), method
    for method in ("bpp", "Ee", "a:", 3):
        assert not validator.is_valid({"method": method}), method


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the examples, as the current one."""
    folder = Path(__file__).parents[2] / "examples"
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("nowhere_at_all:Mine", "cannot import 'nowhere_at_all'"),
        ("own_objective:Prototype", "Did you mean 'Prototypes'"),
        ("own_objective:Nearest", "is no local objective; derive it from"),
        ("math:sqrt", "is no local objective"),
    ],
)
def test_a_class_that_will_not_do(method: str, said: str) -> None:
    settings = load_config({"method": method})
    with pytest.raises(ConfigError, match=said):
        LocalObjective(settings, 4, 3, "text", True, "x")


@pytest.mark.usefixtures("examples")
def test_the_example_of_an_own_objective() -> None:
    settings = config(method="own_objective:Prototypes", local={"options": {"pull": 0.5}})
    own = LocalObjective(settings, 4, 3, "text", True, "x").double()
    again = LocalObjective(settings, 4, 3, "text", True, "x").double()
    x = draw(6, 4)
    prototypes = again.exit_head.prototypes.tolist()
    distances = [
        [sum((a - b) ** 2 for a, b in zip(row, p, strict=True)) for p in prototypes]
        for row in x.tolist()
    ]
    nearest = cross_entropy([[-d for d in row] for row in distances], LABELS)
    pulled = sum(row[label] for row, label in zip(distances, LABELS, strict=True)) / 6
    loss = own(x, CHECKED)
    assert loss.parts["distance"].item() == pytest.approx(pulled, rel=1e-12)
    assert loss.total.item() == pytest.approx(nearest + 0.5 * pulled, rel=1e-6)


def test_the_example_trains(examples: Path) -> None:
    info = image_info(1, 8, 8)
    stages = build_stages(load_config(examples / "own_objective.yaml"), info, total_steps=30)
    stats = train(stages, [image_batch(info)] * 30)
    assert [s.parts.keys() for s in stats[0]] == [{"distance"}] * 3
    assert all(last.loss < first.loss for first, last in zip(stats[0], stats[-1], strict=True))
    assert stats[-1][-1].correct == 6
