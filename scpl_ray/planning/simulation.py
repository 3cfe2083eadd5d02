"""Discrete-event simulation of the streamed pipeline. Pure.

The rules are those of the engine:

- At most `window` calls are under way; a call is sent when the one `window` before it, and all
  before that, have been finished by ALL stages.
- A stage does one call at a time, in order. A call of one batch: receive, forward, send; the
  output leaves; then the update. A call of k batches: k times all of it; then the k outputs leave
  together.
- The data process makes the calls' batches in order, up to `prefetch` calls ahead of their use;
  what a call costs the driver and Ray counts as part of that.
- A link carries one call after another; its latency does not hold it.
- Where more processes compute than there are cores, they share the cores evenly (egalitarian
  processor sharing, the fluid limit of the kernel's round-robin). Stages of several threads need
  several cores each: say `cores` in units of one stage's threads.

An event loop of its own and not SimPy: under processor sharing every job's end moves whenever one
comes or goes. In virtual time, which runs at the rate that each job gets, the ends stay where they
are (the idea of fair queueing: Demers, Keshav & Shenker 1989), so two heaps and two clocks are the
whole simulator, and 64 stages take a second; SimPy's resources know no sharing of one server.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from scpl_ray.planning.links import FREE, Link

_DATA = -1


@dataclass(frozen=True)
class StageTimes:
    """What one batch costs a stage.

    Attributes:
        forward_s: seconds of the forward.
        update_s: seconds of loss, backward and optimizer.
        receive_s: seconds to take the input out of the transport.
        send_s: seconds to put the output into it.
        output_mib: size of the output.
    """

    forward_s: float
    update_s: float
    receive_s: float = 0.0
    send_s: float = 0.0
    output_mib: float = 0.0

    @property
    def seconds(self) -> float:
        """A whole step."""
        return self.receive_s + self.forward_s + self.send_s + self.update_s


@dataclass(frozen=True)
class Schedule:
    """How batches travel.

    Attributes:
        window: calls under way at most.
        per_call: batches of a call.
        call_s: seconds that a call costs each stage beside its batches.
        prefetch: calls whose batches are made ahead.
        data_s: seconds that the data process needs for a batch.
        driver_s: seconds that a call costs the driver and Ray's own processes.
        cores: processes that can compute at the same time; infinite: a device for each.
    """

    window: int
    per_call: int = 1
    call_s: float = 0.0
    prefetch: int = 8
    data_s: float = 0.0
    driver_s: float = 0.0
    cores: float = math.inf


@dataclass(frozen=True)
class Simulated:
    """What came out.

    Attributes:
        makespan_s: from the first batch asked for to the end of the last update.
        step_s: seconds a batch in steady state.
        fill_s: until the last stage begins its first call.
        busy: of each stage, the share of a steady step that it works, alone on its core.
        held: of each link, the most outputs (batches) that were handed over and not yet consumed;
            the first link is the one from the data process to stage 1.
        moved_mib: of each link between stages, MiB a step.
        calls: that were simulated.
    """

    makespan_s: float
    step_s: float
    fill_s: float
    busy: list[float]
    held: list[int]
    moved_mib: list[float]
    calls: int

    @property
    def idle(self) -> list[float]:
        """What is left of each stage's time."""
        return [1 - share for share in self.busy]


def simulate(
    stages: Sequence[StageTimes],
    schedule: Schedule,
    links: Link | Sequence[Link] = FREE,
    calls: int | None = None,
) -> Simulated:
    """Streams calls through the pipeline.

    Args:
        stages: what a batch costs each.
        schedule: how batches travel.
        links: between stages k and k + 1; one for all, or one each.
        calls: how many; None: enough for the steady state.

    Raises:
        ValueError: no stage, a window below 1, too few calls, or not one link for each pair.
    """
    if not stages or schedule.window < 1 or schedule.per_call < 1 or schedule.cores <= 0:
        raise ValueError("a pipeline needs a stage, a window, a batch a call, and a core")
    each = [links] * (len(stages) - 1) if isinstance(links, Link) else list(links)
    if len(each) != len(stages) - 1:
        raise ValueError(f"{len(stages)} stages have {len(stages) - 1} links (got {len(each)})")
    # Filled after as many calls as there are stages or fit into the window; as many drain.
    fills = len(stages) + min(schedule.window, 4 * len(stages) + 8)
    total = calls if calls is not None else 3 * fills + 60
    if total < 2:
        raise ValueError(f"two calls are the fewest with a step between them (got {total})")
    return _Loop(stages, schedule, each, total).run(fills)


@dataclass
class _State:
    """A stage, or the data process, while it runs."""

    phases: list[float]
    waiting: deque[int] = field(default_factory=deque)
    call: int | None = None
    phase: int = 0
    held: int = 0
    most: int = 0
    link_free: float = 0.0


class _Loop:
    def __init__(
        self, stages: Sequence[StageTimes], schedule: Schedule, links: list[Link], total: int
    ) -> None:
        self.stages, self.schedule, self.links, self.total = stages, schedule, links, total
        k = schedule.per_call
        last = len(stages) - 1
        self.states = []
        for number, s in enumerate(stages):
            send = 0.0 if number == last else s.send_s
            before = s.receive_s + s.forward_s + send
            whole = schedule.call_s + k * (before + s.update_s)
            self.states.append(
                _State([schedule.call_s + before, s.update_s] if k == 1 else [whole])
            )
        self.made_s = k * schedule.data_s + schedule.driver_s
        self.data = _State([self.made_s])
        self.now = self.virtual = 0.0
        self.active = 0
        self.ends: list[tuple[float, int, int]] = []  # (virtual time, order, stage)
        self.arrivals: list[tuple[float, int, int]] = []  # (time, stage, call)
        self.order = self.sent = self.made = self.asked = self.finished = 0
        self.missing = [len(stages)] * total
        self.done_at = [0.0] * total
        self.fill_s = 0.0

    def run(self, fills: int) -> Simulated:
        self._advance()
        while self.finished < self.total:
            rate = min(1.0, self.schedule.cores / self.active) if self.active else 1.0
            ends = math.inf
            if self.ends:
                ends = self.now + max(0.0, self.ends[0][0] - self.virtual) / rate
            if self.arrivals and self.arrivals[0][0] <= ends:
                at, stage, call = heapq.heappop(self.arrivals)
                self._pass_to(at, rate)
                self.states[stage].waiting.append(call)
                self._start(stage)
            else:
                self._pass_to(ends, rate)
                _, _, stage = heapq.heappop(self.ends)
                self.active -= 1
                self._ended(stage)
        return self._result(fills)

    def _pass_to(self, at: float, rate: float) -> None:
        self.virtual += (at - self.now) * rate if self.active else 0.0
        self.now = at

    def _compute(self, stage: int, seconds: float) -> None:
        self.order += 1
        self.active += 1
        heapq.heappush(self.ends, (self.virtual + seconds, self.order, stage))

    def _start(self, stage: int) -> None:
        state = self.states[stage]
        if state.call is not None or not state.waiting:
            return
        state.call, state.phase = state.waiting.popleft(), 0
        if state.call == 0 and stage == len(self.states) - 1:
            self.fill_s = self.now
        self._compute(stage, state.phases[0])

    def _ended(self, stage: int) -> None:
        if stage == _DATA:
            self.data.call = None
            self.made += 1
            self._advance()
            return
        state = self.states[stage]
        assert state.call is not None
        if state.phase == 0:
            self._hand_on(stage, state.call)
        state.phase += 1
        if state.phase < len(state.phases):
            self._compute(stage, state.phases[state.phase])
            return
        state.held -= self.schedule.per_call
        call, state.call = state.call, None
        self.missing[call] -= 1
        while self.finished < self.total and not self.missing[self.finished]:
            self.done_at[self.finished] = self.now
            self.finished += 1
        self._start(stage)
        self._advance()

    def _advance(self) -> None:
        """Sends what the window allows and is made; has more made."""
        ahead = min(self.total, self.sent + self.schedule.prefetch + 1)
        if self.made_s == 0:
            self.made = ahead
        while self.sent < min(self.made, self.total, self.finished + self.schedule.window):
            self._arrive(self.now, 0, self.sent)
            self.sent += 1
            if self.made_s == 0:
                self.made = min(self.total, self.sent + self.schedule.prefetch + 1)
        ahead = min(self.total, self.sent + self.schedule.prefetch + 1)
        if self.made_s and self.data.call is None and self.made < ahead:
            self.data.call = self.made
            self._compute(_DATA, self.data.phases[0])

    def _hand_on(self, stage: int, call: int) -> None:
        if stage + 1 == len(self.states):
            return
        link, state = self.links[stage], self.states[stage]
        mib = self.schedule.per_call * self.stages[stage].output_mib
        state.link_free = max(self.now, state.link_free) + link.holds_s(mib)
        self._arrive(state.link_free + link.latency_s, stage + 1, call)

    def _arrive(self, at: float, stage: int, call: int) -> None:
        state = self.states[stage]
        state.held += self.schedule.per_call
        state.most = max(state.most, state.held)
        heapq.heappush(self.arrivals, (at, stage, call))

    def _result(self, fills: int) -> Simulated:
        # Neither while the window fills nor while it drains; with few calls, what there is.
        first, last = min(fills, self.total // 3), max(self.total - fills, 2 * self.total // 3)
        last = min(max(last, first + 1), self.total - 1)
        k = self.schedule.per_call
        step = (self.done_at[last] - self.done_at[first]) / ((last - first) * k)
        work = [sum(state.phases) / k for state in self.states]
        return Simulated(
            self.now,
            step,
            self.fill_s,
            [min(1.0, w / step) if step > 0 else 0.0 for w in work],
            [state.most for state in self.states],
            [s.output_mib for s in self.stages[:-1]],
            self.total,
        )
