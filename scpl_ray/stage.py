"""One stage: consecutive layers, their heads and their optimizer. Torch only, no Ray.

    forward(t)  ->  detached output, at once for the next stage
    update(t)   ->  local loss, backward within the stage, optimizer step

`forward` refuses any step but its own next one, and `update` needs the output that `forward` of
the same step left behind: a batch can be neither skipped nor trained twice. Replicas of a stage
`share` the batches of a round and then `learn` (see `rounds`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from scpl_ray.config.schema import Config
from scpl_ray.descent import Descent
from scpl_ray.errors import NonFiniteLossError
from scpl_ray.gradient import as_leaf, backward, gradient_of, stand_in
from scpl_ray.models.activation import Activation
from scpl_ray.models.layers import LayeredModel
from scpl_ray.objective import LocalLoss, has_exit
from scpl_ray.rounds import ends_round
from scpl_ray.share import Share, put_mean
from scpl_ray.stage_facts import ExitScore, StageSpec, StageStats
from scpl_ray.stage_module import StageModule
from scpl_ray.stage_step import Pending, step_stats


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
        self.module.check_trainable(self.device)
        self.module.to(self.device)
        totals = (self.run.total_steps, self.run.steps_per_epoch)
        self.descent = Descent(self.module, config, self.spec.number, *totals)
        self._pending: Pending | None = None
        names, end_to_end = self.model.names, self.module.objective.end_to_end
        # Of a method that trains end to end: whether a gradient comes from behind, and goes on.
        self.needs_gradient = end_to_end and self.spec.layers[-1] != names[-1]
        self._gives_gradient = end_to_end and self.spec.layers[0] != names[0]
        self.input_gradient: Activation | None = None
        self._skips = config.fault_tolerance.on_nonfinite == "skip"
        self.replicas = config.replicas_of(self.spec.number)
        self._shares: list[Share | None] = []
        self._buffers: list[Tensor] = []
        self._marks: list[float] = []
        # The CPU time of a process is added up over all its threads, and Ray's workers have dozens:
        # that takes longer than a small layer.
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        self._cpu_clock = time.thread_time if alone else time.process_time
        self.kept: dict[int, dict[str, Tensor]] = {}

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.run.config.train.precision == "bf16"
        )

    def forward(self, step: int, activation: Activation, labels: Tensor) -> Activation:
        """Computes and returns the detached output of one training batch.

        Args:
            step: must be the stage's next step; of a stage with replicas, one of its round.
            activation: the input; its tensors belong to this stage alone.
            labels: [B].

        Raises:
            RuntimeError: another step is due.
        """
        ahead = step - self.next_step
        if not 0 <= ahead < self.replicas or self._pending is not None:
            raise RuntimeError(f"step {step} came, but the next step is {self.next_step}")
        begun_at, start, cpu = time.time(), time.perf_counter(), self._cpu_clock()
        if self._skips or self.replicas > 1:
            self._buffers = [buffer.clone() for buffer in self.module.buffers()]
        self.module.train()
        if self._gives_gradient:
            activation = as_leaf(activation)
        with self._autocast():
            output = self.module.run_layers(activation, self.run.config.seed, step)
        took = time.perf_counter() - start
        cpu_s = self._cpu_clock() - cpu
        leaf = activation if self._gives_gradient else None
        shapes = activation.shapes()
        self._pending = Pending(step, output, labels, took, begun_at, cpu_s, shapes, leaf)
        return self.module.handed_on(output.detach())

    def update(self, step: int, gradient: Activation | None = None) -> StageStats:
        """Learns from the batch that `forward` has just seen.

        With `fault_tolerance.on_nonfinite: skip`, a batch whose loss or gradient is not finite
        leaves weights, optimizer and running statistics as they were. A stage with replicas learns
        when its round ends.

        Args:
            step: that of the last `forward`.
            gradient: of the stage's output, where the method trains end to end and stages are
                behind. That of its input is then `input_gradient`.

        Raises:
            RuntimeError: `forward` of this step did not run or failed.
            NonFiniteLossError: before any weight is changed.
        """
        start, cpu = time.perf_counter(), self._cpu_clock()
        if self.replicas > 1:
            stats, share = self.share(step)
            self._shares.append(share)
            if ends_round(step, self.replicas, self.run.steps_per_epoch):
                self.learn(self._shares)
                self._shares = []
            return replace(
                stats,
                update_s=time.perf_counter() - start,
                cpu_s=stats.cpu_s + self._cpu_clock() - cpu,
            )
        pending, loss, learned = self._backward(step, gradient)
        if pending.leaf is not None:
            self.input_gradient = gradient_of(pending.leaf)
        lr = self.descent.rate(step)
        if learned:
            self.descent.step(lr, self.next_step, self.replicas)
        else:
            self._put_buffers_back()
        self.next_step = step + 1
        return self._stats(pending, loss, lr, learned, start, cpu)

    def share(self, step: int) -> tuple[StageStats, Share | None]:
        """Computes the gradients of the batch that `forward` has just seen, and changes nothing.

        Returns:
            What `update` returns, and the gradients; None: the batch is skipped.

        Raises:
            RuntimeError, NonFiniteLossError: as `update`.
        """
        start, cpu = time.perf_counter(), self._cpu_clock()
        pending, loss, learned = self._backward(step)
        share = None
        if learned:
            gradients = [p.grad for p in self.descent.parameters]
            share = Share(gradients, [b.clone() for b in self.module.buffers()])
        # Each batch of a round starts from the same weights and the same running statistics.
        self._put_buffers_back()
        lr = self.descent.rate(self.next_step)
        return self._stats(pending, loss, lr, learned, start, cpu), share

    def learn(self, shares: Sequence[Share | None]) -> None:
        """Takes the step of a round.

        Args:
            shares: of all its batches, in order.
        """
        known = [share for share in shares if share is not None]
        if known:
            put_mean(known, self.descent.parameters, list(self.module.buffers()))
            rate = self.descent.rate(self.next_step)
            self.descent.step(rate, self.next_step, self.replicas)
        self.next_step += len(shares)

    def stand_in_gradient(self) -> Activation | None:
        """For `update`, where only its time counts: as a stage behind would give it."""
        if not self.needs_gradient or self._pending is None:
            return None
        return stand_in(self._pending.output)

    def _backward(
        self, step: int, gradient: Activation | None = None
    ) -> tuple[Pending, LocalLoss, bool]:
        """The loss of the pending batch and its gradients; False: they are not finite."""
        pending, self._pending = self._pending, None
        if pending is None or pending.step != step:
            raise RuntimeError(f"update of step {step} without its forward")
        if (gradient is None) == self.needs_gradient:
            raise RuntimeError(f"step {step}: a gradient from behind: {gradient is not None}")
        self._marks = []
        with self._autocast():
            loss = self.module.local_loss(pending.output, pending.labels)
        total = float(loss.total.detach())
        self._marks.append(time.perf_counter())
        learned = math.isfinite(total) and self._differentiate(loss.total, pending.output, gradient)
        if not learned and not self._skips:
            raise NonFiniteLossError(self.spec.number, step, total)
        # The graph goes now, where its time counts as the backward's; freeing it can take as long
        # as an optimizer's step.
        loss, pending.output = loss.detach(), pending.output.detach()
        self._marks.append(time.perf_counter())
        return pending, loss, learned

    def _stats(
        self, pending: Pending, loss: LocalLoss, lr: float, learned: bool, start: float, cpu: float
    ) -> StageStats:
        cpu_s = self._cpu_clock() - cpu
        return step_stats(self.spec.number, pending, loss, lr, learned, start, cpu_s, self._marks)

    @torch.no_grad()
    def _put_buffers_back(self) -> None:
        for own, before in zip(self.module.buffers(), self._buffers, strict=True):
            own.copy_(before)

    def _differentiate(
        self, total: Tensor, output: Activation, gradient: Activation | None
    ) -> bool:
        """Gives each parameter its gradient; False if one is not finite."""
        self.descent.clear_gradients()
        backward(total, output, gradient)
        return self.descent.is_finite()

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
        self.next_step = step
        self.forget_pending()

    def forget_pending(self) -> None:
        """Forgets a batch whose forward is through and whose update never comes."""
        self._pending, self._shares = None, []

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
        return self.descent.state()

    @torch.no_grad()
    def load_state(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Takes over weights, and an optimizer's tensors as `optimizer_state` gives them.

        Raises:
            KeyError: a weight is missing, or the optimizer's state is of another parameter.
            ValueError: a shape differs.
        """
        self.module.load_named(weights)
        self.descent.load(optimizer)
