"""Simulated end-to-end backpropagation over the same stages, for comparison. Pure.

- `bp`: one device holds all layers.
- `gpipe` (Huang et al. 2019, arXiv 1811.06965): all forwards, then all backwards.
- `1f1b` (Narayanan et al. 2019, PipeDream; 2021, arXiv 2104.04473, with a flush): a stage holds at
  most as many micro-batches as there are stages from it to the last one.
- `zb_h1` (Qi et al. 2023, arXiv 2401.10241): the backward is split into B, the gradient of the
  input, for which the stage before waits, and W, the gradient of the weights, which fills gaps; no
  stage holds more micro-batches than the first stage of 1F1B. Here a stage alternates F and B
  as in 1F1B and takes a W where it would wait or be full; unequal stages may have better orders.

Assumed, and in favour of these baselines: a micro-batch costs its share of the batch (a device
loses nothing on small ones), a transfer never waits for another, and nothing costs overhead. After
the last micro-batch each stage takes its optimizer step, and the next batch starts when all have.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from scpl_ray.planning.links import FREE, Link

KINDS = ("gpipe", "1f1b", "zb_h1")
_MOST_MICRO = 512


@dataclass(frozen=True)
class StagePass:
    """What a whole batch costs a stage of end-to-end backpropagation.

    Attributes:
        forward_s: seconds of the forward.
        backward_s: seconds of the backward, both gradients.
        optimizer_s: seconds of the optimizer step.
        output_mib: activation handed on; the gradient that comes back is as large.
        saved_mib: activations kept from the forward for the backward.
        weight_share: of the backward, the part that is the gradient of the weights.
    """

    forward_s: float
    backward_s: float
    optimizer_s: float = 0.0
    output_mib: float = 0.0
    saved_mib: float = 0.0
    weight_share: float = 0.5


@dataclass(frozen=True)
class Baseline:
    """One of them.

    Attributes:
        kind: "bp" or one of KINDS.
        step_s: seconds of a batch.
        micro_batches: of a batch.
        bubble: share of the devices' time in which they do nothing.
        saved_mib: of each stage, the most activations that it keeps at once.
    """

    kind: str
    step_s: float
    micro_batches: int
    bubble: float
    saved_mib: list[float]


def one_device(stages: Sequence[StagePass]) -> Baseline:
    """All layers on one device, one batch after another."""
    step = sum(s.forward_s + s.backward_s + s.optimizer_s for s in stages)
    return Baseline("bp", step, 1, 0.0, [sum(s.saved_mib for s in stages)])


def best_pipelined(
    kind: str, stages: Sequence[StagePass], batch: int, link: Link = FREE
) -> Baseline:
    """The fastest number of micro-batches, of the powers of two up to the batch.

    Args:
        kind: one of KINDS.
        stages: what a batch costs each.
        batch: its samples.
        link: between stages.
    """
    most, micro, found = min(batch, _MOST_MICRO), 1, []
    while micro <= most:
        found.append(pipelined(kind, stages, micro, link))
        micro *= 2
    return min(found, key=lambda b: b.step_s)


def pipelined(
    kind: str, stages: Sequence[StagePass], micro_batches: int, link: Link = FREE
) -> Baseline:
    """One batch in so many micro-batches.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)} (got {kind!r})")
    return _Flush(kind, stages, micro_batches, link).run()


@dataclass
class _Row:
    """A stage while a batch is under way; micro-batches are done in order."""

    f_in: int = 0  # forwards whose input is there
    b_in: int = 0  # backwards whose gradient is there
    f: int = 0
    b: int = 0
    w: int = 0
    doing: str = ""
    ends: float = 0.0
    busy: float = 0.0
    most: int = 0


class _Flush:
    """Events: (time, order, stage, what): "end" of its work, or an arrival of "f" or "b"."""

    def __init__(self, kind: str, stages: Sequence[StagePass], micro: int, link: Link) -> None:
        self.kind, self.stages, self.micro, self.link = kind, stages, micro, link
        self.rows = [_Row() for _ in stages]
        self.events: list[tuple[float, int, int, str]] = []
        self.order = 0

    def run(self) -> Baseline:
        self.rows[0].f_in = self.micro
        self._next(0, 0.0)
        while self.events:
            now = self.events[0][0]
            touched = set()
            # All of one moment first, so that what a stage does next does not hang on their order.
            while self.events and self.events[0][0] <= now + 1e-12:
                _, _, stage, what = heapq.heappop(self.events)
                touched.add(stage)
                if what == "end":
                    self._ended(stage, now)
                elif what == "f":
                    self.rows[stage].f_in += 1
                else:
                    self.rows[stage].b_in += 1
                touched |= {k for k in (stage - 1, stage + 1) if 0 <= k < len(self.rows)}
            for stage in sorted(touched):
                if not self.rows[stage].doing:
                    self._next(stage, now)
        pairs = list(zip(self.rows, self.stages, strict=True))
        step = max(row.ends + s.optimizer_s for row, s in pairs)
        busy = sum(row.busy + s.optimizer_s for row, s in pairs)
        saved = [row.most * s.saved_mib / self.micro for row, s in pairs]
        bubble = 1 - busy / (len(self.rows) * step) if step > 0 else 0.0
        return Baseline(self.kind, step, self.micro, max(0.0, bubble), saved)

    def _push(self, at: float, stage: int, what: str) -> None:
        self.order += 1
        heapq.heappush(self.events, (at, self.order, stage, what))

    def _ended(self, k: int, now: float) -> None:
        row, what, last = self.rows[k], self.rows[k].doing, len(self.rows) - 1
        row.doing = ""
        if what == "F" and k == last:
            row.b_in += 1
        elif what == "F":
            self._push(now + self._wire(k), k + 1, "f")
        elif what == "B" and k:
            self._push(now + self._wire(k - 1), k - 1, "b")

    def _wire(self, k: int) -> float:
        """Seconds of a micro-batch over the link behind the stage k."""
        return self.link.seconds(self.stages[k].output_mib / self.micro)

    def _next(self, k: int, now: float) -> None:
        what = self._choice(k)
        if not what:
            return
        row, s = self.rows[k], self.stages[k]
        split = self.kind == "zb_h1"
        if what == "F":
            row.f += 1
            seconds = s.forward_s
        elif what == "B":
            row.b += 1
            seconds = s.backward_s * ((1 - s.weight_share) if split else 1.0)
        else:
            row.w += 1
            seconds = s.backward_s * s.weight_share
        row.most = max(row.most, row.f - self._let_go(row, what))
        row.doing, row.ends = what, now + seconds / self.micro
        row.busy += seconds / self.micro
        self._push(row.ends, k, "end")

    def _let_go(self, row: _Row, what: str) -> int:
        """Micro-batches whose activations are gone; those at work are held to the end."""
        if self.kind == "zb_h1":
            return row.w - (what == "W")
        return row.b - (what == "B")

    def _choice(self, k: int) -> str:
        row, behind = self.rows[k], len(self.rows) - k
        can_f, can_b = row.f < row.f_in, row.b < row.b_in
        if self.kind == "gpipe":
            if row.f < self.micro:
                return "F" if can_f else ""
            return "B" if can_b else ""
        owes = self.kind == "zb_h1" and row.w < row.b
        # One forward for each backward: a stage goes on with a forward as soon as it may.
        if can_f and row.f - row.b < behind:
            full = self.kind == "zb_h1" and row.f - row.w >= len(self.rows)
            if not full:
                return "F"
            if owes:
                return "W"
        if can_b:
            return "B"
        return "W" if owes else ""
