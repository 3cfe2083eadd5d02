"""A stage's way down its gradients: optimizer, learning rate, clipping. Torch only, no Ray."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.optim import (
    CLEAR_EVERY,
    clear_tiny,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from scpl_ray.stage_module import StageModule


class Descent:
    """Takes the steps of one stage.

    Args:
        module: the stage's layers and heads, on their device.
        config: the run's config.
        stage: number of the stage, from 1.
        total_steps: training steps of the run.
        steps_per_epoch: training steps of an epoch.
    """

    def __init__(
        self,
        module: StageModule,
        config: Config,
        stage: int,
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self._module, self._config, self._stage = module, config, stage
        self._totals = (total_steps, steps_per_epoch)
        exit_params = module.objective.apart()
        apart = {id(p) for p in exit_params}
        body = [p for p in module.named_trainable().values() if id(p) not in apart]
        # Clipped apart: the exit head's gradient must not touch the layers, by its norm neither.
        self.groups: list[list[nn.Parameter]] = [g for g in (body, exit_params) if g]
        self.optimizer = (
            make_optimizer(config.optimizer, stage, self.groups) if self.groups else None
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, in order."""
        return [p for group in self.groups for p in group]

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self._config.optimizer, self._stage, step, *self._totals)

    def clear_gradients(self) -> None:
        """Before a backward pass."""
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)

    def is_finite(self) -> bool:
        """Whether every gradient is."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        # A sum is finite only if all of it is, and costs one pass.
        return not grads or math.isfinite(float(torch.stack([g.sum() for g in grads]).sum()))

    def step(self, rate: float, number: int, width: int) -> None:
        """Takes a step down the gradients that the parameters have.

        Args:
            rate: the learning rate.
            number: of the step, or of its round's first.
            width: steps that this one stands for: batches of a round.
        """
        if self.optimizer is None:
            return
        clip = self._config.train.clip_norm
        if clip is not None:
            for group in self.groups:
                torch.nn.utils.clip_grad_norm_(group, clip)
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = rate
        self.optimizer.step()
        # By the step, so that every engine and every replica does it at the same one.
        on_cpu = self.groups[0][0].device.type == "cpu"
        if on_cpu and number % CLEAR_EVERY < width:
            clear_tiny(self.optimizer)

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors on the host, keyed `PARAMETER NAME/STATE NAME`."""
        if self.optimizer is None:
            return {}
        return optimizer_state(self.optimizer, self._module.named_trainable())

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            KeyError: it is of another parameter.
        """
        if self.optimizer is not None:
            load_optimizer_state(self.optimizer, self._module.named_trainable(), state)
