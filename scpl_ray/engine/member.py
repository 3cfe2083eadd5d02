"""One stage that trains: its actor, its place in the order of all work, and what it was given."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine import cluster
from scpl_ray.engine.base import PROBATION_STEPS
from scpl_ray.engine.calls import Piece
from scpl_ray.engine.started import Started
from scpl_ray.stage_facts import StageSpec, StageStats


def remote(kind: type, **options: Any) -> Any:
    """An actor class without retries: a method that ran twice would train a batch twice."""
    return ray.remote(kind).options(max_restarts=0, max_task_retries=0, **options)


@dataclass(frozen=True)
class BuildArgs:
    """What every stage is built from.

    Attributes:
        info: what the data is.
        total_steps: training steps of the run.
        steps_per_epoch: training steps of an epoch.
        vectors: reference to word vectors for the embedding, or None.
        weights: reference to the weights to start from, or None.
        transport: what it sends and receives with; see `transport_choice`.
    """

    info: DataInfo
    total_steps: int
    steps_per_epoch: int
    vectors: Any = None
    weights: Any = None
    transport: str = "object_store"

    @property
    def options(self) -> dict[str, Any]:
        """What its actor needs for that, of Ray."""
        return {} if self.transport == "object_store" else {"enable_tensor_transport": True}

    def build(
        self, actors: list[Any], spec: StageSpec, config: Config, device: str, state: Any = None
    ) -> Any:
        """Has the processes of a stage build it; returns the reference to its `Started`."""
        info, totals = self.info, (self.total_steps, self.steps_per_epoch)
        given = (self.vectors, self.weights, state, self.transport)
        same = (spec, config, info, *totals, device, *given)
        others = [actor.build.remote(*same) for actor in actors[1:]]
        return actors[0].build.remote(*same, *others)


@dataclass
class Given:
    """One piece of work that a stage was sent.

    Attributes:
        number: of the work.
        work: what it is.
        given: the input; None for work without.
        answer: what the stage says once it is done.
        state: reference to the copy, of a snapshot.
        mib: size of the input, once it is known.
    """

    number: int
    work: schedule.Work
    given: Piece | None
    answer: Piece
    state: Any = None
    mib: float = 0.0


@dataclass(eq=False)
class Member:
    """A stage that trains.

    Attributes:
        spec: which stage.
        config: the network's config that it was built with.
        actor: its handle; of a stage with replicas, the first one's.
        device: where it computes.
        group: the placement group that holds its resources; None where it needs none.
        joined: whether it joined a run that was under way.
        returned: whether it had left before.
        finished: batches that it has finished since.
        first: number of the first work that it gets.
        until: number of the first work that it no longer gets; None while it trains.
        step: training step that it began with.
        origin: reference to the state that it began with; None: it was built anew.
        snapshot: reference to its newest copy, or None.
        at: number of the work that the copy, or the beginning, comes after.
        sent: number of the work that it was sent last.
        log: what it was sent since the copy, by number, the oldest first.
        log_mib: size of the inputs in there, as far as known.
        started: its process, once that is known.
        replicas: handles of its other processes.
        round: references to the gradients of the round that is being sent.
        settled: number of the work that all replicas were sent last.
    """

    spec: StageSpec
    config: Config
    actor: Any
    device: str
    group: PlacementGroup | None = None
    joined: bool = False
    returned: bool = False
    finished: int = 0
    first: int = 0
    until: int | None = None
    step: int = 0
    origin: Any = None
    snapshot: Any = None
    at: int = -1
    sent: int = -1
    log: dict[int, Given] = field(default_factory=dict)
    log_mib: float = 0.0
    started: Started | None = None
    replicas: list[Any] = field(default_factory=list)
    round: list[Any] = field(default_factory=list)
    settled: int = -1

    @property
    def actors(self) -> list[Any]:
        """The handles of all its processes."""
        return [self.actor, *self.replicas]

    @property
    def name(self) -> str:
        """For messages."""
        return f"stage {self.spec.number}"

    @property
    def on_probation(self) -> bool:
        """Whether its failure is not yet the run's."""
        return self.joined and self.finished < PROBATION_STEPS

    def gets(self, number: int) -> bool:
        """Whether the work of this number passes through it."""
        return self.first <= number and (self.until is None or number < self.until)

    def did(self, number: int, stats: StageStats) -> None:
        """It has finished a training batch."""
        self.finished += 1
        if (given := self.log.get(number)) is not None:
            given.mib = stats.given_mib
            self.log_mib += given.mib

    def adopt(self, number: int) -> None:
        """Its copy after the work `number`, if it is there: what came before is not replayed."""
        mark = self.log.get(number)
        if mark is None or mark.state is None:
            return
        try:
            ray.get(mark.answer.ref)
        except Exception:
            return  # whoever waits for an answer finds out why
        self.snapshot, self.at = mark.state, number
        for old in [n for n in self.log if n <= number]:
            self.forget(old)

    def forget(self, number: int) -> None:
        """The input of this work is not needed again."""
        if (given := self.log.pop(number, None)) is not None:
            self.log_mib -= given.mib

    def keep_again(self, again: dict[int, Given]) -> None:
        """Takes back into the log what was to be sent again and was not."""
        for number in [n for n in again if n not in self.log]:
            self.log[number] = again[number]
            self.log_mib += again[number].mib
        self.log = dict(sorted(self.log.items()))

    def go_on_after(self, number: int) -> dict[int, Given]:
        """Takes what it was sent after a piece of work out of its log; it is to be sent again."""
        again = {n: given for n, given in self.log.items() if n > number}
        for later in again:
            self.forget(later)
        self.sent = self.settled = number
        self.round = []
        return again

    def survive(self, generation: int) -> Any:
        """Asks its processes what they have done last; returns the reference."""
        others = [actor.survive.remote(generation) for actor in self.replicas]
        return self.actor.survive.remote(generation, *others)

    def begin(self, generation: int, last: int, step: int | None = None) -> None:
        """Has its processes take their place; see `StageActor.begin`."""
        for actor in self.actors:
            actor.begin.remote(generation, last, step)

    def ask_state(self) -> Any:
        """Asks for its state; returns the reference."""
        return self.actor.state.remote()

    def end_process(self) -> None:
        """Ends a process that may only be slow: the fence keeps it out, this frees its device."""
        for actor in self.actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        for started in () if self.started is None else self.started.all:
            if started.node != cluster.own_node():
                continue
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(started.pid)
                if abs(process.create_time() - started.process_at) < 2:
                    process.kill()

    def end(self) -> None:
        """Ends the actors and gives their resources back."""
        for actor in self.actors:
            ray.kill(actor)
        if self.group is not None:
            remove_placement_group(self.group)
