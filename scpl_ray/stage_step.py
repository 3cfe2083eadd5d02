"""One training step of a stage: what waits between forward and update, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scpl_ray.losses import share_without_positive
from scpl_ray.models.activation import Activation
from scpl_ray.objective import LocalLoss
from scpl_ray.stage_facts import StageStats


@dataclass
class Pending:
    """A batch whose forward is through and whose update is to come.

    Attributes:
        step: which batch.
        output: of the stage, gradient attached.
        labels: [B].
        forward_s: what the forward took.
        begun_at: when it began, in seconds since 1970.
        cpu_s: CPU time of it.
        shapes: of the input, for messages.
        leaf: the input, where its gradient is to go back.
    """

    step: int
    output: Activation
    labels: Tensor
    forward_s: float
    begun_at: float
    cpu_s: float
    shapes: str = ""
    leaf: Activation | None = None


def step_stats(
    stage: int,
    pending: Pending,
    loss: LocalLoss,
    lr: float,
    learned: bool,
    start: float,
    cpu_s: float,
    marks: Sequence[float],
) -> StageStats:
    """What a stage reports of a step that ends now.

    Args:
        stage: its number.
        pending: the batch.
        loss: of it, without its graph.
        lr: learning rate.
        learned: whether it learned from it, or left it out.
        start: `time.perf_counter` when the update began.
        cpu_s: CPU time of the update.
        marks: `time.perf_counter` after the loss, and after the backward.
    """
    labels = pending.labels
    correct = None if loss.logits is None else int((loss.logits.argmax(1) == labels).sum())
    return StageStats(
        stage=stage,
        step=pending.step,
        loss=float(loss.total),
        contrastive=_number(loss.contrastive),
        prediction=_number(loss.prediction),
        correct=correct,
        samples=len(labels),
        lonely_share=float(share_without_positive(labels)),
        lr=lr,
        forward_s=pending.forward_s,
        update_s=time.perf_counter() - start,
        shapes=pending.shapes,
        finished_at=time.time(),
        skipped=not learned,
        loss_s=marks[0] - start,
        backward_s=marks[-1] - marks[0],
        begun_at=pending.begun_at,
        cpu_s=pending.cpu_s + cpu_s,
        parts={name: float(part) for name, part in loss.parts.items()},
    )


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value)
