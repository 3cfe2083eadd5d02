"""Layers of the tests' own models: they fail, hang, wait, or write in place on purpose."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scpl_ray.data.batch import DataInfo
from scpl_ray.models.layers import LayeredModel, LayerSpec


class FailsAt(nn.Module):
    """Raises, sleeps or kills its process when it has seen `step` training batches."""

    def __init__(self, step: int, how: str) -> None:
        super().__init__()
        self.step, self.how, self.seen = step, how, 0
        self.scale = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.training and self.seen == self.step + 1:
            if self.how == "raise":
                raise ArithmeticError("a broken layer")
            if self.how == "sleep":
                time.sleep(60)
            if self.how == "die":
                os.kill(os.getpid(), 9)
            if self.how == "nan":
                return self.scale(x) * float("nan")
        return self.scale(x)


def failing(data: DataInfo, step: int, how: str) -> Any:
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    return [("first", first), ("second", FailsAt(step, how)), ("third", nn.Linear(8, 8))], flat


class FailsAtBatch(nn.Module):
    """Raises, or kills its process, whenever it sees the training batch `step`.

    It counts in a buffer, which snapshots and checkpoints hold: so it does it again.
    """

    def __init__(self, step: int, how: str) -> None:
        super().__init__()
        self.step, self.how = step, how
        self.scale = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if int(self.seen) == self.step:
                if self.how == "raise":
                    raise ArithmeticError("a broken batch")
                os.kill(os.getpid(), 9)
            self.seen += 1
        return self.scale(x)


def failing_again(data: DataInfo, step: int, how: str) -> Any:
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    layers = [("first", first), ("second", FailsAtBatch(step, how)), ("third", nn.Linear(8, 8))]
    return layers, flat


def flat(activation: Any) -> Tensor:
    return activation.hidden.flatten(1)


def in_place(data: DataInfo) -> Any:
    """Every layer begins by writing into its input."""
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    second = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8))
    third = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8))
    return [("first", first), ("second", second), ("third", third)], flat


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, log: str) -> Tensor:
        ctx.log = log
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        time.sleep(0.7)
        with Path(ctx.log).open("a") as file:
            file.write(f"backward {time.time()}\n")
        return grad, None


class Logs(nn.Module):
    def __init__(self, log: str, slow: bool) -> None:
        super().__init__()
        self.log, self.slow = log, slow
        self.linear = nn.Linear(64 if slow else 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.slow:
            y: Tensor = SlowBackward.apply(self.linear(x.flatten(1)), self.log)
            return y
        if self.training:
            with Path(self.log).open("a") as file:
                file.write(f"forward {time.time()}\n")
        return self.linear(x)


def logging(data: DataInfo, log: str) -> Any:
    return [("first", Logs(log, True)), ("second", Logs(log, False))], flat


class Widen(nn.Module):
    """Hands on a large activation; or is slow to take it."""

    def __init__(self, megabytes: int, sleep_s: float) -> None:
        super().__init__()
        self.width, self.sleep_s = megabytes * 2**18, sleep_s
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.sleep_s)
        if self.sleep_s:
            return x.flatten(1)[:, :8] * self.scale
        return x.flatten(1)[:, :1].expand(-1, self.width // len(x)) * self.scale


def front(activation: Any) -> Tensor:
    return activation.hidden.flatten(1)[:, :8]


def wide(data: DataInfo, megabytes: int, sleep_s: float) -> Any:
    return [("wide", Widen(megabytes, 0.0)), ("slow", Widen(megabytes, sleep_s))], front


def _tail(kind: str, n: int) -> LayerSpec:
    """The nth layer by which a network of these tests grows; `kind` says how it fails."""

    def build() -> nn.Module:
        if kind == "cannot_build":
            raise ArithmeticError("no such layer can be built")
        if kind == "slow_start":
            time.sleep(30)
        how = {"fails_soon": (2, "raise"), "dies_soon": (2, "die"), "nan_soon": (2, "nan")}
        return FailsAt(*how[kind]) if kind in how else nn.Sequential(nn.Linear(8, 8), nn.Dropout())

    return LayerSpec(f"tail.{n}", build, flat, 8)


def growing(data: DataInfo, kind: str = "sound", sleep_s: float = 0.0) -> LayeredModel:
    """Two layers, and more as it grows; a step takes at least `sleep_s`."""
    first = nn.Sequential(nn.Flatten(), Sleeps(sleep_s), nn.Linear(64, 8))
    return LayeredModel(
        (
            LayerSpec("first", first, flat, 8),
            LayerSpec("second", lambda: nn.Sequential(nn.Dropout(), nn.Linear(8, 8)), flat, 8),
        ),
        style="image",
        more=lambda n: _tail(kind, n),
    )


class Sleeps(nn.Module):
    """Takes time on training batches only."""

    def __init__(self, sleep_s: float) -> None:
        super().__init__()
        self.sleep_s = sleep_s

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.sleep_s)
        return x
