"""One stage: consecutive layers, their heads and their optimizer. Torch only, no Ray.

    forward(t)  ->  detached output, at once for the next stage
    update(t)   ->  local loss, backward within the stage, optimizer step

`forward` refuses any step but its own next one, and `update` needs the output that `forward` of
the same step left behind: a batch can be neither skipped nor trained twice.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scpl_ray.config.schema import Config
from scpl_ray.errors import NonFiniteLossError
from scpl_ray.losses import share_without_positive
from scpl_ray.models.activation import Activation
from scpl_ray.models.layers import LayeredModel
from scpl_ray.objective import has_exit
from scpl_ray.optim import learning_rate, make_optimizer
from scpl_ray.stage_facts import ExitScore, StageSpec, StageStats
from scpl_ray.stage_module import StageModule


@dataclass(frozen=True)
class Run:
    """What a stage must know of the whole run.

    Attributes:
        config: the run's config.
        num_classes: number of classes.
        total_steps: training steps of the run.
        steps_per_epoch: training steps of an epoch.
    """

    config: Config
    num_classes: int
    total_steps: int
    steps_per_epoch: int


@dataclass
class _Pending:
    step: int
    output: Activation
    labels: Tensor
    forward_s: float
    begun_at: float
    cpu_s: float
    shapes: str = ""


def plan_stages(config: Config, cut: list[tuple[str, ...]]) -> list[StageSpec]:
    """Gives each cut of layers its number and its exit."""
    return [
        StageSpec(k, layers, has_exit(config.method, k, len(cut)))
        for k, layers in enumerate(cut, 1)
    ]


@dataclass
class Stage:
    """A stage that trains and evaluates."""

    spec: StageSpec
    model: LayeredModel
    run: Run
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    next_step: int = 0

    def __post_init__(self) -> None:
        config = self.run.config
        self.module = StageModule(self.spec, self.model, config, self.run.num_classes)
        self.module.to(self.device)
        head = self.module.objective.exit_head
        exit_params = list(head.parameters()) if head is not None else []
        apart = {id(p) for p in exit_params}
        body = [p for p in self.module.named_trainable().values() if id(p) not in apart]
        # Clipped apart: the exit head's gradient must not touch the layers, by its norm neither.
        self.groups = [group for group in (body, exit_params) if group]
        self.optimizer = (
            make_optimizer(config.optimizer, self.spec.number, self.groups) if self.groups else None
        )
        self._pending: _Pending | None = None
        self._skips = config.fault_tolerance.on_nonfinite == "skip"
        self._buffers: list[Tensor] = []
        self._marks: list[float] = []
        self.kept: dict[int, dict[str, Tensor]] = {}

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.run.config.train.precision == "bf16"
        )

    def forward(self, step: int, activation: Activation, labels: Tensor) -> Activation:
        """Computes and returns the detached output of one training batch.

        Args:
            step: must be the stage's next step.
            activation: the input; its tensors belong to this stage alone.
            labels: [B].

        Raises:
            RuntimeError: another step is due.
        """
        if step != self.next_step or self._pending is not None:
            raise RuntimeError(f"step {step} came, but the next step is {self.next_step}")
        begun_at, start, cpu = time.time(), time.perf_counter(), time.process_time()
        if self._skips:
            self._buffers = [buffer.clone() for buffer in self.module.buffers()]
        self.module.train()
        with self._autocast():
            output = self.module.run_layers(activation, self.run.config.seed, step)
        took = time.perf_counter() - start
        cpu_s = time.process_time() - cpu
        self._pending = _Pending(step, output, labels, took, begun_at, cpu_s, activation.shapes())
        return self.module.handed_on(output.detach())

    def update(self, step: int) -> StageStats:
        """Learns from the batch that `forward` has just seen.

        With `fault_tolerance.on_nonfinite: skip`, a batch whose loss or gradient is not finite
        leaves weights, optimizer and running statistics as they were.

        Raises:
            RuntimeError: `forward` of this step did not run or failed.
            NonFiniteLossError: before any weight is changed.
        """
        pending, self._pending = self._pending, None
        if pending is None or pending.step != step:
            raise RuntimeError(f"update of step {step} without its forward")
        start, cpu = time.perf_counter(), time.process_time()
        config, labels = self.run.config, pending.labels
        with self._autocast():
            loss = self.module.objective(self.module.reduce(pending.output), labels)
        total = float(loss.total.detach())
        self._marks = [start, time.perf_counter()]
        lr = learning_rate(
            config.optimizer,
            self.spec.number,
            step,
            self.run.total_steps,
            self.run.steps_per_epoch,
        )
        learned = math.isfinite(total) and self._learn(loss.total, lr)
        if not learned:
            if not self._skips:
                raise NonFiniteLossError(self.spec.number, step, total)
            self._put_buffers_back()
        self.next_step = step + 1
        correct = None if loss.logits is None else int((loss.logits.argmax(1) == labels).sum())
        return StageStats(
            stage=self.spec.number,
            step=step,
            loss=total,
            contrastive=float(loss.contrastive.detach()),
            prediction=None if loss.prediction is None else float(loss.prediction.detach()),
            correct=correct,
            samples=len(labels),
            lonely_share=float(share_without_positive(labels)),
            lr=lr,
            forward_s=pending.forward_s,
            update_s=time.perf_counter() - start,
            shapes=pending.shapes,
            finished_at=time.time(),
            skipped=not learned,
            loss_s=self._marks[1] - start,
            backward_s=self._marks[-1] - self._marks[1],
            begun_at=pending.begun_at,
            cpu_s=pending.cpu_s + time.process_time() - cpu,
        )

    @torch.no_grad()
    def _put_buffers_back(self) -> None:
        for own, before in zip(self.module.buffers(), self._buffers, strict=True):
            own.copy_(before)

    def _learn(self, total: Tensor, lr: float) -> bool:
        """Takes a step down the gradient; False, and nothing changes, if it is not finite."""
        if self.optimizer is None or not total.requires_grad:
            return True
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        grads = [p.grad for group in self.groups for p in group if p.grad is not None]
        # A sum is finite only if all of it is, and costs one pass.
        if grads and not math.isfinite(float(torch.stack([g.sum() for g in grads]).sum())):
            return False
        self._marks.append(time.perf_counter())
        clip = self.run.config.train.clip_norm
        if clip is not None:
            for group in self.groups:
                torch.nn.utils.clip_grad_norm_(group, clip)
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = lr
        self.optimizer.step()
        return True

    @torch.no_grad()
    def evaluate(self, activation: Activation, labels: Tensor) -> tuple[Activation, ExitScore]:
        """Runs one batch without learning: (output, what this stage's exit got right)."""
        self.module.eval()
        with self._autocast():
            output = self.module.run_layers(activation, None, 0)
            head = self.module.objective.exit_head
            if head is None:
                return self.module.handed_on(output), ExitScore(self.spec.number, 0, 0, 0.0)
            logits = head(self.module.reduce(output)).float()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        correct = int((logits.argmax(1) == labels).sum())
        score = ExitScore(self.spec.number, correct, len(labels), float(loss))
        return self.module.handed_on(output), score

    def begin(self, step: int) -> None:
        """Makes `step` the next one: the stage joins a run that is under way."""
        self.next_step, self._pending = step, None

    def forget_pending(self) -> None:
        """Forgets a batch whose forward is through and whose update never comes."""
        self._pending = None

    def stash(self, epoch: int) -> None:
        """Keeps a copy of the weights at the end of an epoch."""
        self.kept[epoch] = {k: v.clone() for k, v in self.module.named_state().items()}

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the copies up to the epoch `until`, forgets all but one; later ones stay."""
        self.kept = {k: v for k, v in self.kept.items() if k == epoch or k > until}

    def restore_stash(self, epoch: int) -> None:
        """Goes back to the weights that were kept at the end of an epoch."""
        self.module.load_named(self.kept[epoch])

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors on the host, keyed `PARAMETER NAME/STATE NAME`."""
        names = {id(p): name for name, p in self.module.named_trainable().items()}
        state = self.optimizer.state if self.optimizer is not None else {}
        return {
            f"{names[id(param)]}/{key}": value.detach().cpu().contiguous()
            for param, values in state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    @torch.no_grad()
    def load_state(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Takes over weights, and an optimizer's tensors as `optimizer_state` gives them.

        Raises:
            KeyError: a weight is missing, or the optimizer's state is of another parameter.
            ValueError: a shape differs.
        """
        self.module.load_named(weights)
        if self.optimizer is None:
            return
        params = self.module.named_trainable()
        self.optimizer.state.clear()
        for name, tensor in optimizer.items():
            param_name, key = name.rsplit("/", 1)
            param = params[param_name]
            self.optimizer.state[param][key] = tensor.to(param.device, copy=True)
