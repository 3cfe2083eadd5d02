"""One process's part of a pipeline of torch.distributed.pipelining, for batches of any shape.

Its pipelines take tensors of one shape only, cut into equal micro-batches. So each shape has a
schedule of its own, all over the same layers; texts are padded to a multiple of 8 tokens. A last
batch with fewer rows is cut into as many micro-batches as divide it, no more than the others have.
Where the schedule takes none such, it is filled up with copies of its own rows that have no label.

The loss is the sum over the labelled rows / their number: the gradient is that of the batch itself,
whatever the micro-batches. (Batch normalisation sees micro-batches, and the copies.)
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import ScheduleInterleavedZeroBubble

from scpl_ray.bench.kinds import of_rows
from scpl_ray.bench.ranks import Rank
from scpl_ray.bench.segment import Segment
from scpl_ray.models.activation import Activation

Given = tuple[Activation, Tensor]

_NO_LABEL = -100
_MULTIPLE = 8


class _Timed(PipelineStage):
    """Counts the seconds in which it computes; the rest of a step it waits for others."""

    def __init__(self, segment: Segment, rank: Rank) -> None:
        super().__init__(segment, rank.number, rank.world, torch.device("cpu"))
        self.segment, self.computed_s = segment, 0.0

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        self.segment.micro = fwd_chunk_id
        found = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        self.computed_s += time.perf_counter() - begun
        return found

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        begun = time.perf_counter()
        super().backward_one_chunk(*args, **kwargs)
        self.computed_s += time.perf_counter() - begun

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        begun = time.perf_counter()
        super().backward_weight_one_chunk(*args, **kwargs)
        self.computed_s += time.perf_counter() - begun


class Pipelined:
    """Forward and backward of batches through all processes.

    Args:
        segment: this process's layers.
        rank: which process it is.
        kind: "gpipe", "1f1b" or "zero-bubble".
        micro: micro-batches of a full batch.
        longest: tokens of the longest text; None: no texts.
    """

    def __init__(
        self, segment: Segment, rank: Rank, kind: str, micro: int, longest: int | None
    ) -> None:
        self.segment, self.rank, self.kind, self.micro = segment, rank, kind, micro
        self.longest, self.labelled = longest, 1
        self._by_shape: dict[tuple[int, int], tuple[_Timed, Any]] = {}

    @property
    def computed_s(self) -> float:
        """Seconds of computing up to now."""
        return sum(stage.computed_s for stage, _ in self._by_shape.values())

    def __call__(self, rows: int, given: Given | None) -> float | None:
        """Gives all parameters the gradient of a batch; returns its loss at the last process.

        Args:
            rows: of the batch.
            given: the batch; None: this process needs nothing of it.
        """
        micro = of_rows(self.kind, rows, self.micro, self.rank.world)
        filled = rows if micro else -(-rows // self.micro) * self.micro
        length, target = 0, None
        inputs: tuple[Tensor, ...] = ()
        own: dict[str, Tensor] = {}
        self.labelled = rows
        if given is not None:
            activation, labels = self._padded(_filled(given, filled))
            length = 0 if activation.mask is None else activation.hidden.shape[1]
            inputs = (activation.hidden,) if self.rank.first else ()
            own = {} if activation.mask is None else {"mask": activation.mask}
            target = labels if self.rank.last else None
        if (filled, length) not in self._by_shape:
            self._by_shape[filled, length] = self._schedule(micro or self.micro)
        losses: list[Tensor] | None = [] if self.rank.last else None
        self._by_shape[filled, length][1].step(
            *inputs, target=target, losses=losses, return_outputs=False, **own
        )
        return None if losses is None else float(sum(loss.detach() for loss in losses))

    def _schedule(self, micro: int) -> tuple[_Timed, Any]:
        stage = _Timed(self.segment, self.rank)
        told: dict[str, Any] = {"loss_fn": self._loss, "scale_grads": False}
        if self.kind == "zero-bubble":
            # One chunk a process, as the others have: ZB-H1.
            return stage, ScheduleInterleavedZeroBubble([stage], micro, **told)
        schedule = ScheduleGPipe if self.kind == "gpipe" else Schedule1F1B
        return stage, schedule(stage, micro, **told)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = F.cross_entropy(logits, labels, ignore_index=_NO_LABEL, reduction="sum")
        return total / self.labelled

    def _padded(self, given: Given) -> Given:
        activation, labels = given
        if activation.mask is None or self.longest is None:
            return given
        length = activation.hidden.shape[1]
        more = min(-(-length // _MULTIPLE) * _MULTIPLE, self.longest) - length
        return activation.map(lambda t: F.pad(t, (0, more))), labels


def _filled(given: Given, rows: int) -> Given:
    activation, labels = given
    if len(labels) == rows:
        return given
    indices = torch.arange(rows) % len(labels)
    without = torch.full((rows - len(labels),), _NO_LABEL)
    return activation.rows(indices), torch.cat([labels, without])
