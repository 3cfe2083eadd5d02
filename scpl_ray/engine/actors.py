"""The actor that holds a stage that trains."""

from __future__ import annotations

import os
import sys
import time

import psutil
import ray

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.engine import LOADED_AT
from scpl_ray.engine.actor_clock import ActorClock
from scpl_ray.engine.base import StageState
from scpl_ray.engine.build import (
    build_stage,
    prepare_stage_process,
    stage_state,
)
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.fence import Fence, OutOfTurn, Ticket
from scpl_ray.engine.given import Given, one_of, size_mib
from scpl_ray.engine.live_state import LiveState, live_state, load_live_state
from scpl_ray.engine.rest import Rest
from scpl_ray.engine.started import Started
from scpl_ray.engine.transport import Packet, open_transport
from scpl_ray.errors import ScplRayError
from scpl_ray.models.text import WordVectors
from scpl_ray.peak_memory import PeakMemory, own_mib
from scpl_ray.schedule import Evaluate, Train
from scpl_ray.stage_facts import ExitScore, StageSpec, StageStats


def extend_path(paths: list[str]) -> None:
    """Adds entries of the driver's module path."""
    sys.path[:0] = [p for p in paths if p not in sys.path]


class StageActor:
    """Holds one stage. Its caller sends forward(t), update(t), forward(t+1), ... in order.

    Args:
        config: the run's config.
        threads: CPU threads, equal in all stages.
        paths: entries of the driver's module path, for models of the user's own.
    """

    def __init__(self, config: Config, threads: int, paths: list[str]) -> None:
        self.init_at = time.time()
        extend_path(paths)
        prepare_stage_process(config, threads)
        self.fence = Fence()
        self.failure: tuple[int, ScplRayError] | None = None
        self.clock = ActorClock()
        self.bare_mib = own_mib()
        self.given_mib = self.handed_mib = 0.0

    def ready(self) -> int:
        """Imports are done; returns the process."""
        return os.getpid()

    def stand_by(self) -> tuple[int, float]:
        """As `ready`; from now on the process can be woken from its `rest`.

        Returns:
            The process, and when it was made, in seconds since 1970.
        """
        self._rest = Rest()
        return os.getpid(), psutil.Process().create_time()

    def rest(self) -> None:
        """Waits, and takes no time, until it is woken."""
        self._rest.wait()

    def build(
        self,
        spec: StageSpec,
        config: Config,
        info: DataInfo,
        total_steps: int,
        steps_per_epoch: int,
        device: str,
        vectors: WordVectors | None = None,
        weights: bytes | None = None,
        state: StageState | LiveState | None = None,
        transport: str = "object_store",
        *replicas: Started,
    ) -> Started:
        """Builds the stage on its device; see `build_stage`, and `open_transport`.

        Its other replicas have been built when this one is.
        """
        self.spec, totals = spec, (total_steps, steps_per_epoch)
        saved = state if isinstance(state, StageState) else None
        try:
            self.stage = build_stage(spec, config, info, *totals, device, vectors, weights, saved)
            if isinstance(state, LiveState):
                load_live_state(self.stage, state)
            self.send_by(transport)
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(spec.number, Train(-1, -1), None, error) from None
        made = psutil.Process().create_time()
        node = ray.get_runtime_context().get_node_id()
        times = (made, LOADED_AT, self.init_at, time.time())
        return Started(os.getpid(), *times, node, self.transport.name, replicas)

    def send_by(self, transport: str) -> None:
        """Sends and receives by this transport from now on; see `open_transport`."""
        who = f"stage {self.spec.number}"
        self.transport = open_transport(transport, self.stage.device, who)

    def begin(self, generation: int, last: int, step: int | None = None) -> None:
        """Takes its place: after the work numbered `last`, and, where it joins, at `step`."""
        self.fence.place(generation, last)
        if step is not None:
            self.stage.begin(step)
        self.failure = None
        self.clock.start()

    def survive(self, generation: int, *others: int) -> int:
        """Begins a new generation of the pipeline; returns the number of the work done last.

        Args:
            generation: the new one.
            others: what the stage's other replicas have done last.

        Raises:
            OutOfTurn: they are not where this one is.
        """
        last = self.fence.last
        if any(other != last for other in others):
            raise OutOfTurn(f"replicas of one stage are after work {sorted({last, *others})}")
        self.stage.forget_pending()
        self.begin(generation, last)
        return last

    def forward(
        self, ticket: Ticket, work: Train, given: Given, index: int | None = None
    ) -> Packet:
        """Computes the output of one training batch; it leaves before the update begins.

        Args:
            ticket: leave to do it.
            work: which step.
            given: the input, or a list with it.
            index: its place in the list.
        """
        output = self._forward(ticket, work, one_of(given, index), last=False)
        assert output is not None, "only the last stage hands nothing on"
        return output

    def _forward(
        self, ticket: Ticket, work: Train, packet: Packet | Batch, last: bool
    ) -> Packet | None:
        self.fence.check(ticket)
        self.clock.awake()
        begun = time.perf_counter()
        activation, labels = self.transport.unpack(packet)
        self.clock.received(time.perf_counter() - begun)
        try:
            output = self.stage.forward(work.step, activation, labels)
            self.fence.begun = ticket.number
            self.given_mib, self.handed_mib = size_mib(packet), 0.0
            self.clock.sending()
            if last:
                return None
            handed = self.transport.pack(output, labels)
            self.handed_mib = size_mib(handed)
            return handed
        except Exception as error:
            # Kept, because the caller holds on to the update's answer, not to this one's.
            failure = stage_error(self.spec.number, work, activation, error)
            self.failure = (ticket.number, failure)
            raise failure from None

    def update(self, ticket: Ticket, work: Train) -> StageStats:
        """Learns from the batch of the last forward."""
        self._before_update(ticket)
        try:
            stats = self.stage.update(work.step)
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(self.spec.number, work, None, error) from None
        self.fence.passed(ticket)
        return self._told(stats)

    def _before_update(self, ticket: Ticket) -> None:
        if self.failure is not None and self.failure[0] == ticket.number:
            raise self.failure[1]
        self.fence.check_begun(ticket)
        # The update is queued right behind the forward: between them, what it hands on is stored.
        self.clock.sent()

    def _told(self, stats: StageStats) -> StageStats:
        """With what only the process knows."""
        on_cuda = self.stage.device.type == "cuda"
        return self.clock.tell(stats, self.given_mib, self.handed_mib, on_cuda)

    def train(
        self, ticket: Ticket, work: Train, given: Given, index: int | None = None
    ) -> StageStats:
        """Both in one call, for the last stage, which hands nothing on."""
        self._forward(ticket, work, one_of(given, index), last=True)
        return self.update(ticket, work)

    @ray.method(num_returns=2)
    def many(
        self,
        ticket: Ticket,
        works: tuple[Train | Evaluate, ...],
        given: list[Packet | Batch],
        index: int,
        last: bool,
    ) -> tuple[list[Packet | None], list[StageStats | ExitScore]]:
        """Does many batches in one call, one after another; the last stage hands nothing on.

        Args:
            ticket: leave to do the first of them.
            works: which; their numbers and their inputs follow one another.
            given: the inputs.
            index: the first one's place among them.
            last: nobody reads the outputs.
        """
        outputs: list[Packet | None] = []
        said: list[StageStats | ExitScore] = []
        for i, work in enumerate(works):
            if isinstance(work, Train):
                outputs.append(self._forward(ticket, work, given[index + i], last))
                said.append(self.update(ticket, work))
            else:
                output, score = self._evaluate(ticket, given[index + i], last)
                outputs.append(output)
                said.append(score)
            ticket = Ticket(ticket.generation, ticket.number, ticket.number + 1)
        return ([] if last else outputs), said

    @ray.method(num_returns=2)
    def evaluate(
        self, ticket: Ticket, given: Given, last: bool, index: int | None = None
    ) -> tuple[Packet | None, ExitScore]:
        """Scores one batch; the last stage hands nothing on."""
        return self._evaluate(ticket, one_of(given, index), last)

    def _evaluate(
        self, ticket: Ticket, packet: Packet | Batch, last: bool
    ) -> tuple[Packet | None, ExitScore]:
        self.fence.check(ticket)
        activation, labels = self.transport.unpack(packet)
        try:
            output, score = self.stage.evaluate(activation, labels)
        except Exception as error:
            raise stage_error(self.spec.number, Train(-1, -1), activation, error) from None
        self.fence.passed(ticket)
        self.clock.idle()
        return (None if last else self.transport.pack(output, labels)), score

    def stash(self, ticket: Ticket, epoch: int) -> None:
        """Keeps the weights of an epoch's end."""
        self.fence.check(ticket)
        self.stage.stash(epoch)
        self.fence.passed(ticket)

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the stashes up to the epoch `until`, forgets all but one."""
        self.stage.keep_stash(epoch, until)

    def restore(self, ticket: Ticket, epoch: int) -> None:
        """Goes back to the stash of an epoch."""
        self.fence.check(ticket)
        self.stage.restore_stash(epoch)
        self.fence.passed(ticket)

    @ray.method(num_returns=2)
    def snapshot(self, ticket: Ticket) -> tuple[LiveState, None]:
        """Hands on the stage's whole state, and says when that is done."""
        self.fence.check(ticket)
        begun = time.perf_counter()
        state = live_state(self.stage)
        self.fence.passed(ticket)
        self.clock.took_snapshot(begun)
        return state, None

    def watch_memory(self) -> None:
        """Looks at this process's memory from now on."""
        self.peak = PeakMemory()

    def grown_mib(self) -> float:
        """The most that this process had more of its own, since then, than before its stage."""
        return self.peak.end() - self.bare_mib

    def state(self) -> StageState:
        """Serialises the stage, with the digest of its weights."""
        return stage_state(self.stage)
