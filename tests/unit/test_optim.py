from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scpl_ray.config.schema import OptimizerConfig
from scpl_ray.optim import clear_tiny, learning_rate, make_optimizer


def rates(steps: range, total: int, per_epoch: int, stage: int = 1, **settings: Any) -> list[float]:
    config = OptimizerConfig(**settings)
    return [learning_rate(config, stage, s, total, per_epoch) for s in steps]


def test_constant() -> None:
    assert rates(range(5), 5, 2, lr=0.3, end_lr=0.1) == [0.3] * 5


def test_cosine_each_step() -> None:
    root = math.sqrt(0.5)
    wanted = [1.0, 0.1 + 0.45 * (1 + root), 0.55, 0.1 + 0.45 * (1 - root), 0.1, 0.1]
    got = rates(range(6), 4, 2, lr=1.0, end_lr=0.1, schedule="cosine")
    assert got == pytest.approx(wanted, rel=1e-12)


def test_cosine_each_epoch() -> None:
    got = rates(range(12), 12, 4, lr=1.0, end_lr=0.0, schedule="cosine", schedule_every="epoch")
    assert got == pytest.approx([1.0] * 4 + [0.75] * 4 + [0.25] * 4, rel=1e-12)


def test_cosine_up_to_a_higher_end() -> None:
    got = rates(range(3), 2, 1, lr=0.1, end_lr=0.3, schedule="cosine")
    assert got == pytest.approx([0.1, 0.2, 0.3], rel=1e-12)


def test_cosine_of_one_step_or_less_than_an_epoch() -> None:
    assert rates(range(1), 1, 5, lr=1.0, schedule="cosine", schedule_every="epoch") == [1.0]
    assert rates(range(1), 0, 1, lr=1.0, schedule="cosine") == [1.0]


def test_overrides_by_stage() -> None:
    settings: dict[str, Any] = {
        "lr": 1.0,
        "end_lr": 0.5,
        "schedule": "cosine",
        "stages": {2: {"lr": 0.2}, 3: {"end_lr": 0.0}, 4: {"weight_decay": 0.1}},
    }
    ends = {k: rates(range(0, 3, 2), 2, 1, stage=k, **settings) for k in (1, 2, 3, 4)}
    assert ends == {1: [1.0, 0.5], 2: [0.2, 0.5], 3: [1.0, 0.0], 4: [1.0, 0.5]}


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_kinds(name: str, kind: type) -> None:
    config = OptimizerConfig(name=name, lr=0.5, weight_decay=0.25, betas=(0.5, 0.75), momentum=0.3)
    optimizer = make_optimizer(config, 1, [[parameter()]])
    assert isinstance(optimizer, kind)
    assert optimizer.defaults["lr"] == 0.5
    assert optimizer.defaults["weight_decay"] == 0.25
    if name == "sgd":
        assert optimizer.defaults["momentum"] == 0.3
    else:
        assert optimizer.defaults["betas"] == (0.5, 0.75)


def test_weight_decay_by_stage_and_zero_is_a_value() -> None:
    config = OptimizerConfig(weight_decay=0.25, stages={2: {"weight_decay": 0.0}, 3: {"lr": 1.0}})
    decay = [make_optimizer(config, k, [[parameter()]]).defaults["weight_decay"] for k in (1, 2, 3)]
    assert decay == [0.25, 0.0, 0.25]


def test_groups_without_parameters_are_left_out() -> None:
    first, second = parameter(), parameter()
    optimizer = make_optimizer(OptimizerConfig(), 1, [[], [first], [], [second]])
    assert [group["params"] for group in optimizer.param_groups] == [[first], [second]]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_is_torchs_own_and_imports_no_compiler(name: str) -> None:
    code = (
        "import sys, torch\n"
        "from scpl_ray.config.schema import OptimizerConfig\n"
        "from scpl_ray.optim import make_optimizer\n"
        "def train(make):\n"
        "    torch.manual_seed(0)\n"
        "    layer = torch.nn.Linear(8, 8)\n"
        "    optimizer = make([list(layer.parameters())])\n"
        "    for _ in range(3):\n"
        "        optimizer.zero_grad(set_to_none=True)\n"
        "        layer(torch.randn(4, 8)).square().sum().backward()\n"
        "        optimizer.step()\n"
        "    return layer.weight.detach().clone()\n"
        f"config = OptimizerConfig(name={name!r}, weight_decay=0.1)\n"
        "ours = train(lambda groups: make_optimizer(config, 1, groups))\n"
        "print('torch._dynamo' in sys.modules)\n"
        "kind = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW, 'sgd': torch.optim.SGD}\n"
        "more = {'momentum': 0.9} if config.name == 'sgd' else {}\n"
        "torchs = train(lambda g: kind[config.name](g[0], 1e-3, weight_decay=0.1, fused=True, **more))\n"
        "print(torch.equal(ours, torchs))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.split() == ["False", "True"], shown.stderr


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_moments_never_stay_subnormal(name: str) -> None:
    """A parameter without a gradient: torch's own moments end subnormal, and stay so."""
    smallest = torch.finfo(torch.float32).smallest_normal

    def moments(clear: bool) -> Tensor:
        weight = nn.Parameter(torch.ones(4))
        optimizer = make_optimizer(OptimizerConfig(name=name), 1, [[weight]])
        for step in range(1300):
            weight.grad = torch.full((4,), 1e-3 if step == 0 else 0.0)
            optimizer.step()
            if clear and step % 64 == 0:
                clear_tiny(optimizer)
        state = optimizer.state[weight]
        return state["momentum_buffer" if name == "sgd" else "exp_avg"].abs()

    assert ((moments(clear=False) > 0) & (moments(clear=False) < smallest)).all()
    assert (moments(clear=True) == 0).all()


def test_what_is_not_tiny_stays() -> None:
    weight = nn.Parameter(torch.ones(5))
    optimizer = make_optimizer(OptimizerConfig(name="adam"), 1, [[weight]])
    weight.grad = torch.ones(5)
    optimizer.step()
    state = optimizer.state[weight]
    state["exp_avg"].copy_(torch.tensor([1e-29, -1e-29, 1e-31, float("inf"), float("nan")]))
    clear_tiny(optimizer)
    assert state["exp_avg"][:4].tolist() == [
        pytest.approx(1e-29),
        pytest.approx(-1e-29),
        0.0,
        float("inf"),
    ]
    assert state["exp_avg"][4].isnan() and state["step"] == 1
