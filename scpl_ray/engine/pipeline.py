"""The streamed pipeline: one Ray actor per stage, activations from actor to actor.

This process holds the loop and passes references, never bytes:

    batch(t) -> stage 1 forward(t) -> stage 2 forward(t) -> ... -> stage S train(t)
                        update(t)             update(t)

At most `in_flight` batches are under way; the oldest must end before the next starts. What a stage
was given is kept since its newest snapshot (`chain`), so that a stage that dies comes back exactly
(`recovery`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine import cluster
from scpl_ray.engine.ahead import Ahead, Coming
from scpl_ray.engine.asking import Asking
from scpl_ray.engine.base import (
    Ask,
    Boundary,
    Candidate,
    DataReady,
    Done,
    Failure,
    Go,
    Resumed,
    StageState,
)
from scpl_ray.engine.build import with_digest
from scpl_ray.engine.call_size import MOST_MIB, CallSize
from scpl_ray.engine.candidate import RayCandidate
from scpl_ray.engine.chain import Chain, Flying
from scpl_ray.engine.collector import Collector
from scpl_ray.engine.direct import not_importable
from scpl_ray.engine.faults import Broken, ProcessDied
from scpl_ray.engine.marks import Marks
from scpl_ray.engine.member import BuildArgs, Member
from scpl_ray.engine.members import Members
from scpl_ray.engine.placement import at_once, place, threads_per_stage
from scpl_ray.engine.recovery import Recovery
from scpl_ray.engine.source import Source
from scpl_ray.engine.transport_choice import choose
from scpl_ray.engine.wording import worded
from scpl_ray.models.text import WordVectors
from scpl_ray.objective import is_end_to_end
from scpl_ray.stage_facts import StageSpec

_LOOK_AGAIN_S = 0.02
_SPARE_AFTER = 5
# Of the object store: for inputs that are kept, and for what travels in one of the many calls.
_LOG_SHARE, _CALL_SHARE = 0.3, 1 / 128


class RayEngine:
    """Streams work through stage actors.

    Args:
        config: the run's config.
        debug: show Ray's own log and the actors' output.
        say: takes one line for the log.
    """

    def __init__(
        self, config: Config, debug: bool = False, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.config = config
        self._owns_ray = cluster.connect(config, debug)
        self.members = Members(config, cluster.is_private(config))
        self.exports = cluster.exports(config)
        self.source = Source(config)
        store = float(ray.cluster_resources().get("object_store_memory", math.inf)) / 2**20
        most = min(MOST_MIB, _CALL_SHARE * store)
        one_each = bool(config.replicas) or is_end_to_end(config.method)
        kept = _LOG_SHARE * store
        self.calls = CallSize(config.pipeline, one_each, most, kept)
        self.chain = Chain(self.members, self.source, config, self.calls)
        self.recovery = Recovery(config, self.chain, say)
        self._asking = Asking(config.pipeline, self.members, self.recovery)
        self.collector = Collector(config, self.members, self.chain)
        self.marks = Marks(config.fault_tolerance, room_mib=kept)
        self._ahead = Ahead(self.source, self.members, self.calls, config.pipeline)
        self._next: list[Coming] = []
        self._steps = 0

    @property
    def threads(self) -> int:
        """CPU threads of each stage."""
        return self.members.threads

    @property
    def specs(self) -> list[StageSpec]:
        """The stages that train, in order."""
        return [member.spec for member in self.members.live]

    @property
    def parked(self) -> list[StageSpec]:
        """The stages that have left and only evaluate."""
        return self.members.parked

    @property
    def failures(self) -> list[Failure]:
        """The faults that this run has survived."""
        return self.recovery.budget.failures

    def prepare_data(self, tokenizer: str | None = None) -> DataReady:
        """Loads the data in the data actor."""
        self.ready = self._asking.prepared(self.source, tokenizer)
        return self.ready

    def start(
        self,
        specs: list[StageSpec],
        vectors: WordVectors | None,
        planned: int | None = None,
        weights: bytes | None = None,
        resumed: Resumed | None = None,
    ) -> list[str]:
        """Places and builds the first stages at once; see `Engine.start`.

        Raises:
            ResourceError: the cluster does not give the resources in time.
        """
        config, ready = self.config, self.ready
        most = config.processes(max(len(specs), planned or 0))
        placement = place(config, most, ray.cluster_resources(), self.members.private)
        wish = choose(config, placement.device, not_importable)
        args = BuildArgs(
            ready.info,
            ready.steps_per_epoch * config.train.epochs,
            ready.steps_per_epoch,
            None if vectors is None else ray.put(vectors),
            None if weights is None else ray.put(weights),
            wish.transport,
        )
        threads = threads_per_stage(config, most)
        self.calls.at_once = at_once(
            placement, threads, ray.cluster_resources(), self.members.private
        )
        self.marks.rounds = config.rounds(ready.steps_per_epoch)
        self.chain.steps_per_epoch = ready.steps_per_epoch
        built = self.members.start(specs, placement, threads, args, resumed)
        self._asking.wait_built(built, placement)
        for ref, member in zip(built, self.members.live, strict=True):
            self._asking.built(ref, member)
        line = self.members.settle_transport(wish)
        ft = config.fault_tolerance
        cpu = placement.device == "cpu"
        self.members.spare.wanted = ft.enabled and ft.standby and cpu and self.members.private
        self.recovery.start_step = 0 if resumed is None else resumed.step
        return [placement.line, line]

    @property
    def pids(self) -> dict[int, int]:
        """The processes of the stages that train, with the number of the stage."""
        started = {m.spec.number: m.started for m in self.members.live if m.started is not None}
        return {process.pid: number for number, s in started.items() for process in s.all}

    def run(
        self, work: Iterable[schedule.Work], boundary: Boundary | None = None
    ) -> Iterator[Done]:
        """Keeps the window full and yields results in order."""
        flying = self.chain.flying
        for call in self._ahead.calls(self.marks.among(work)):
            for item in call:
                while not self._next and self.chain.crowded():
                    yield from self._finish(flying[0])
                while boundary is not None and (go := boundary(item.work)) is not Go.ON:
                    self._send_next()
                    if go is Go.STOP:
                        break
                    if flying:
                        yield from self._finish(flying[0])
                    else:
                        time.sleep(_LOOK_AGAIN_S)
                else:
                    self._next.append(item)
                    continue
                break
            else:
                self._send_next()
                continue
            break
        while flying:
            yield from self._finish(flying[0])

    def _send_next(self) -> None:
        """Sends what no change of the stages comes between any more."""
        items, self._next = self._next, []
        works, batches = [i.work for i in items], [i.batch for i in items]
        each = max(1, len(items)) if items and self.chain.takes_many(works[0]) else 1
        for start in range(0, len(items), each):
            self.chain.send(works[start : start + each], batches[start : start + each])
        for item in items:
            item.batch = None

    def _mend(self, why: str, suspects: tuple[Member, ...] = ()) -> None:
        source = self.source.actor
        self.recovery.mend(why, suspects)
        if self.source.actor is not source:
            self._ahead.ask_again()

    def _finish(self, flying: Flying) -> Iterator[Done]:
        """Waits for the oldest work, mends what is broken on the way, and yields the result."""
        while True:
            try:
                results = self.collector.collect(flying)
                break
            except Broken as broken:
                self._mend(broken.why, broken.suspects)
        self.chain.flying.remove(flying)
        self.chain.finished(flying)
        work, lost = flying.work, tuple(flying.lost)
        if isinstance(work, schedule.Train):
            self._trained(flying, results)
            self.marks.done = work.step
            yield Done(work, stats=tuple(results.values()), lost=lost)
        elif isinstance(work, schedule.Evaluate):
            scores = [s for r in results.values() for s in (r if isinstance(r, list) else [r])]
            yield Done(work, scores=tuple(scores), lost=lost)
        elif isinstance(work, schedule.Snapshot):
            parts = self.collector.parts(flying, work, self.recovery.written)
            self.chain.adopt(flying.number)
            if work.durable or lost:
                yield Done(work, lost=lost, parts=parts if work.durable else None)
        else:
            yield Done(work, lost=lost)

    def _trained(self, flying: Flying, results: dict[int, Any]) -> None:
        self.collector.shapes = {n: stats.shapes for n, stats in results.items()}
        for member in self.members.all():
            if member.spec.number in results and member.gets(flying.number):
                member.did(flying.number, results[member.spec.number])
        given = sum(stats.given_mib for stats in results.values())
        self.calls.saw(results.values())
        if cost := max(stats.snapshot_s for stats in results.values()):
            self.marks.cost_s = cost * self.calls.crowd
        self.marks.log_mib = self.chain.log_mib(given * self.calls.now())
        self._steps += 1
        self.recovery.prune()
        if self._steps == _SPARE_AFTER:
            self.members.spare.keep()

    def prepare(self, spec: StageSpec, config: Config, ask: Ask) -> RayCandidate:
        """Starts a stage that is to join; see `Engine.prepare`."""
        return self.members.prepare(spec, config, ask)

    def join(self, candidate: Candidate, step: int) -> None:
        """Lets batches flow through a ready candidate, from `step` on."""
        assert isinstance(candidate, RayCandidate)
        self._send_next()
        self.members.join(candidate, step, self.chain.generation, self.chain.number)

    def leave(self, config: Config) -> StageSpec:
        """Takes the last stage out of training."""
        self._send_next()
        return self.members.leave(config, self.chain.number)

    def free_left(self) -> None:
        """Frees the devices of stages that have left by now."""
        try:
            flying = self.chain.flying
            self.members.free_left(flying[0].number if flying else self.chain.number + 1)
        except (RayActorError, ObjectLostError) as error:
            self._mend(str(worded(error, "a stage that leaves")))

    def can_get(self, ask: Ask) -> str:
        """Empty if a stage could have a place now or later, else why not."""
        return self.members.can_get(ask)

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the stashes up to the epoch `until`, forgets all but one; does not wait."""
        for member in self.members.live:
            for actor in member.actors:
                actor.keep_stash.remote(epoch, until)

    def restore_stash(self, epoch: int) -> None:
        """Goes back to the stash of an epoch."""
        for _ in self.run([schedule.Restore(epoch)]):
            pass

    def states(self) -> Iterator[StageState]:
        """Yields the state of one stage after the other, those that have left last."""
        for member in self.members.live:
            yield self._answer(member.ask_state, member.name)
        for left in self.members.have_left():
            yield with_digest(self._answer(left.ask_state, "a stage that has left"))

    def _answer(self, ask: Callable[[], Any], who: str) -> StageState:
        while True:
            try:
                state: StageState = self._asking.get(ask(), who)
                return state
            except ProcessDied as died:
                self._mend(died.cause)

    def close(self) -> None:
        """Ends the actors, and Ray if this engine started it."""
        if not ray.is_initialized():
            return
        if self._owns_ray:
            cluster.disconnect()
            return
        self.members.end()
        ray.kill(self.source.actor)
        # Their names are gone at once, their processes a moment later.
        time.sleep(0.1)
