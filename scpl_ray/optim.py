"""One optimizer per stage; the learning rate is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scpl_ray.config.schema import OptimizerConfig

_TINY = 1e-30
# Moments shrink by some 1e-3 in so many steps, and need 800 to become subnormal.
CLEAR_EVERY = 64


def _bare(function: Any) -> Any:
    """A method of torch's optimizers less what it tells torch.compile.

    To be left alone by the compiler they import it: 1.6 to 2.3 s of CPU in every process that
    holds a stage, before its first batch. No stage compiles its optimizer; the arithmetic inside
    is the same. A version of torch without that wrapping is used as it is.
    """
    return getattr(function, "__wrapped__", function)


class _Lean(torch.optim.Optimizer):
    add_param_group = _bare(torch.optim.Optimizer.add_param_group)
    zero_grad = _bare(torch.optim.Optimizer.zero_grad)


class _Adam(_Lean, torch.optim.Adam):
    step = torch.no_grad()(_bare(torch.optim.Adam.step))


class _AdamW(_Lean, torch.optim.AdamW):
    step = torch.no_grad()(_bare(torch.optim.AdamW.step))


class _SGD(_Lean, torch.optim.SGD):
    step = torch.no_grad()(_bare(torch.optim.SGD.step))


def learning_rate(
    config: OptimizerConfig, stage: int, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """Returns the rate of one stage at one step.

    Constant; or a cosine from lr to end_lr over all steps (SGDR, Loshchilov & Hutter 2017, arXiv
    1608.03983, one cycle), moved at each step or, as the authors of SCPL do, at each epoch.

    Args:
        config: the optimizer section, with overrides by stage.
        stage: number of the stage, from 1.
        step: index of the batch.
        total_steps: steps of the whole run.
        steps_per_epoch: steps of an epoch.
    """
    own = config.stages.get(stage)
    start = config.lr if own is None or own.lr is None else own.lr
    end = config.end_lr if own is None or own.end_lr is None else own.end_lr
    if config.schedule == "constant":
        return start
    if config.schedule_every == "epoch":
        step, total_steps = step // steps_per_epoch, max(1, total_steps // steps_per_epoch)
    progress = min(1.0, step / max(1, total_steps))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(
    config: OptimizerConfig, stage: int, groups: Iterable[list[nn.Parameter]]
) -> torch.optim.Optimizer:
    """Builds the optimizer of one stage, one parameter group for each non-empty list."""
    own = config.stages.get(stage)
    decay = config.weight_decay if own is None or own.weight_decay is None else own.weight_decay
    params = [{"params": group} for group in groups if group]
    fused = config.fused
    if config.name == "sgd":
        return _SGD(params, config.lr, config.momentum, weight_decay=decay, fused=fused)
    kind = _Adam if config.name == "adam" else _AdamW
    return kind(params, config.lr, betas=config.betas, weight_decay=decay, fused=fused)


def clear_tiny(optimizer: torch.optim.Optimizer) -> None:
    """Sets moments below 1e-30 to zero.

    Without a gradient (a dead unit, a word that does not come) a moment shrinks at each step until
    it is subnormal, where a CPU is many times slower; rounding then keeps it from ever becoming
    zero. Beside Adam's epsilon of 1e-8 such a moment moves no weight.
    """
    for values in optimizer.state.values():
        for key, value in values.items():
            if key != "step" and isinstance(value, Tensor):
                torch.hardshrink(value, _TINY, out=value)


def optimizer_state(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """An optimizer's tensors on the host, keyed `PARAMETER NAME/STATE NAME`."""
    names = {id(p): name for name, p in params.items()}
    return {
        f"{names[id(param)]}/{key}": value.detach().cpu().contiguous()
        for param, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Gives an optimizer the tensors that `optimizer_state` took.

    Raises:
        KeyError: the state is of another parameter.
    """
    optimizer.state.clear()
    for name, tensor in state.items():
        param_name, key = name.rsplit("/", 1)
        param = params[param_name]
        optimizer.state[param][key] = tensor.to(param.device, copy=True)
