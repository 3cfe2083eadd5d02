"""What is known of a stage without torch: where it sits, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StageSpec:
    """Where a stage sits.

    Attributes:
        number: from 1.
        layers: names of its layers.
        with_exit: whether it has an exit head.
    """

    number: int
    layers: tuple[str, ...]
    with_exit: bool


@dataclass(frozen=True)
class StageStats:
    """What a stage reports of one training step; times in seconds, `finished_at` since 1970.

    A step is: waiting, receive (into tensors of this process), forward, send (out of them, and
    what Ray does with the result before the next call), update (loss, backward, then the
    optimizer). `snapshot_s` is what snapshots cost since the step before, `given_mib` the size of
    the input, `handed_mib` of the output, `begun_at` when the forward began; `skipped` says that
    the loss was not finite and nothing was learned. `cpu_s` is the CPU time of forward
    and update, `replica` which process of the stage it was, from 0. `contrastive`, `prediction`
    and `parts` are what the loss is made of, before weights; which there are, the method says.
    """

    stage: int
    step: int
    loss: float
    contrastive: float | None
    prediction: float | None
    correct: int | None
    samples: int
    lonely_share: float
    lr: float
    forward_s: float
    update_s: float
    memory_mib: float = 0.0
    waiting_s: float = 0.0
    shapes: str = ""
    finished_at: float = 0.0
    snapshot_s: float = 0.0
    given_mib: float = 0.0
    skipped: bool = False
    receive_s: float = 0.0
    send_s: float = 0.0
    loss_s: float = 0.0
    backward_s: float = 0.0
    begun_at: float = 0.0
    handed_mib: float = 0.0
    cpu_s: float = 0.0
    replica: int = 0
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExitScore:
    """What an exit got right in one evaluated batch."""

    stage: int
    correct: int
    samples: int
    loss_sum: float
