"""The stage actors of a run: those that train, one that starts, and those that have left."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.actors import StageActor
from scpl_ray.engine.base import Ask, Resumed
from scpl_ray.engine.candidate import RayCandidate
from scpl_ray.engine.cluster import beside_driver
from scpl_ray.engine.end_to_end import EndToEndActor
from scpl_ray.engine.member import BuildArgs, Member, remote
from scpl_ray.engine.parked_actor import ParkedActor
from scpl_ray.engine.placement import Placement, place_one, shortage
from scpl_ray.engine.replica_actor import ReplicaActor
from scpl_ray.engine.spare import Spare
from scpl_ray.engine.transport_choice import Wish, settle
from scpl_ray.engine.wording import worded
from scpl_ray.objective import is_end_to_end
from scpl_ray.stage_facts import StageSpec


@dataclass
class _Leaving:
    member: Member
    state: Any


@dataclass
class Parked:
    """A stage that has left.

    Attributes:
        spec: which stage.
        config: the network's config when it left.
        state: reference to its state.
    """

    spec: StageSpec
    config: Config
    state: Any

    def ask_state(self) -> Any:
        """The reference to its state of now: another process may have handed it over again."""
        return self.state


class Members:
    """Holds the stages of one run.

    Args:
        config: the run's config.
        private: Ray is this run's own.
    """

    def __init__(self, config: Config, private: bool) -> None:
        self.config, self.private = config, private
        self.live: list[Member] = []
        self.parked_actor: Any = None
        self._parked: list[Parked] = []
        self.threads = 1
        self.placement = Placement("cpu", 0.0, 0.0, "")
        self._leaving: list[_Leaving] = []
        self._aside: dict[int, Parked] = {}
        self._args = BuildArgs(DataInfo("", "", "text", (), {}), 0, 1)
        self.paths = [str(Path.cwd()), *[p for p in sys.path if p]]
        self.spare = Spare(self._make)

    def start(
        self,
        specs: list[StageSpec],
        placement: Placement,
        threads: int,
        args: BuildArgs,
        resumed: Resumed | None,
    ) -> list[Any]:
        """Places and builds the first stages; returns references to their `Started`."""
        self.placement, self.threads, self._args = placement, threads, args
        config = self.config if resumed is None else resumed.config
        cpus, gpus = placement.num_cpus, placement.num_gpus
        for spec in specs:
            first, *others = self._make_all(config.replicas_of(spec.number), cpus, gpus)
            self.live.append(Member(spec, config, first, placement.device, replicas=others))
        if resumed is not None:
            for member, state in zip(self.live, resumed.states, strict=True):
                member.origin, member.step = ray.put(state), resumed.step
            for spec, state in reversed(resumed.parked):
                self._park(Parked(spec, config, ray.put(state)))
        return [self.build(member) for member in self.live]

    def settle_transport(self, wish: Wish) -> str:
        """Has all stages, and those to come, send in the same way; returns it in one line."""
        started = {
            f"{m.spec.number} (replica {i + 1})" if i else m.spec.number: process.transport
            for m in self.live
            if m.started is not None
            for i, process in enumerate(m.started.all)
        }
        transport, line = settle(wish, started)
        if any(each != transport for each in started.values()):
            for member in self.live:
                for actor in member.actors:
                    actor.send_by.remote(transport)
        self._args = replace(self._args, transport=transport)
        return line

    @property
    def parked(self) -> list[StageSpec]:
        """The stages that have left, in order."""
        return [parked.spec for parked in self._parked]

    def have_left(self) -> list[Parked]:
        """The stages that have left, in order."""
        return list(self._parked)

    def _make(self, num_cpus: float = 0.0, num_gpus: float = 0.0) -> Any:
        options = self._args.options
        kind = EndToEndActor if is_end_to_end(self.config.method) else StageActor
        make = remote(kind, num_cpus=num_cpus, num_gpus=num_gpus, **options)
        return make.remote(self.config, self.threads, self.paths)

    def _make_all(self, count: int, cpus: float, gpus: float) -> list[Any]:
        if count == 1:
            return [self._make(cpus, gpus)]
        make = remote(ReplicaActor, num_cpus=cpus, num_gpus=gpus, **self._args.options)
        return [make.remote(self.config, self.threads, self.paths) for _ in range(count)]

    def build(self, member: Member) -> Any:
        """Has a member's actor build its stage as of its newest copy, or of its beginning."""
        state = member.origin if member.snapshot is None else member.snapshot
        return self._args.build(member.actors, member.spec, member.config, member.device, state)

    def replace(self, member: Member) -> Any:
        """Gives a member whose process is gone another; returns the reference to its `Started`.

        It holds what the dead one held; one that shares the cores of the others, as the spare
        does, leaves the dead one's to nobody else: `Spare.take` keeps them.
        """
        member.end()
        wanted, count = self.placement, 1 + len(member.replicas)
        on_cpu = member.device == "cpu"
        ready = self.spare.take(wanted.num_cpus) if on_cpu and count == 1 else None
        if ready is not None:
            member.actor, member.group = ready
        else:
            cpus = wanted.num_cpus
            if self.private and ray.available_resources().get("CPU", 0.0) < count * cpus and on_cpu:
                cpus = 0.0  # the dead one's may be counted a moment longer
            gpus = wanted.num_gpus if member.device == "cuda" else 0
            member.actor, *member.replicas = self._make_all(count, cpus, gpus)
            member.group = None
        return self.build(member)

    def at(self, number: int) -> list[Member]:
        """The stages that the work of this number passes through, in order."""
        return [member for member in self.all() if member.gets(number)]

    def all(self) -> list[Member]:
        """The stages that train, then those that are leaving, in order of their numbers."""
        leaving = [left.member for left in self._leaving]
        return sorted([*self.live, *leaving], key=lambda m: (m.spec.number, m.first))

    def prepare(self, spec: StageSpec, config: Config, ask: Ask) -> RayCandidate:
        """Starts a stage that is to join; a parked one goes on from its state."""
        placement = place_one(self.placement, ask, ray.available_resources(), self.private)
        state = next((parked.state for parked in self._parked if parked.spec == spec), None)
        return RayCandidate(spec, config, self.threads, self.paths, placement, self._args, state)

    def join(self, candidate: RayCandidate, step: int, generation: int, last: int) -> None:
        """Appends a ready candidate to the stages that train, for work after `last`."""
        member = candidate.member()
        member.begin(generation, last, step)
        member.first, member.at, member.step = last + 1, last, step
        member.sent = member.settled = last
        self.live.append(member)
        if candidate.spec in self.parked:
            member.returned = True
            self._aside[candidate.spec.number] = self._parked.pop(0)

    def leave(self, config: Config, last: int) -> StageSpec:
        """Moves the last stage behind the work `last`, then among those that only evaluate.

        Args:
            config: the network's config of now, with the layers that joined.
            last: number of the last work that it gets.
        """
        member = self.live.pop()
        member.until, member.config = last + 1, config
        state = member.ask_state()
        self._aside.pop(member.spec.number, None)
        self._leaving.append(_Leaving(member, state))
        self._park(Parked(member.spec, config, state))
        return member.spec

    def _park(self, parked: Parked) -> None:
        if self.parked_actor is None:
            self._start_parked_actor()
        self._parked.insert(0, parked)
        self._add(parked)

    def _add(self, parked: Parked) -> None:
        args = self._args
        totals = (args.total_steps, args.steps_per_epoch)
        self.parked_actor.add.remote(parked.spec, parked.config, args.info, totals, parked.state)

    def _start_parked_actor(self) -> None:
        make = remote(ParkedActor, num_cpus=0, scheduling_strategy=beside_driver())
        transport = self._args.transport
        self.parked_actor = make.remote(self.config, self.threads, self.paths, transport)

    def renew_parked(self) -> None:
        """Gives the stages that have left another process."""
        ray.kill(self.parked_actor)
        self._start_parked_actor()
        for parked in [*self._aside.values(), *self._parked]:
            self._add(parked)

    def leaves_again(self, member: Member) -> None:
        """A stage died while it was leaving; its new process hands its state over."""
        left = next(left for left in self._leaving if left.member is member)
        left.state = member.ask_state()
        parked = next(p for p in self._parked if p.spec == member.spec)
        parked.state = left.state
        self._add(parked)

    def free_left(self, oldest: int) -> None:
        """Frees the device of each stage that has left by now.

        Args:
            oldest: number of the oldest work under way; a stage that takes part in it stays.

        Raises:
            RayActorError: the process of one died before its state was here.
            ObjectLostError: its machine, with its state, is gone.
            ScplRayError: a stage could not be taken over.
        """
        for leaving in list(self._leaving):
            until = leaving.member.until
            waits = until is not None and oldest < until
            if waits or not ray.wait([leaving.state], timeout=0)[0]:
                continue
            spec = leaving.member.spec
            try:
                state = ray.get(leaving.state)
            except (RayActorError, ObjectLostError):
                raise
            except Exception as error:
                raise worded(error, f"stage {spec.number}, leaving,") from None
            self._leaving.remove(leaving)
            # Of this process: it outlives the machine on which the stage was.
            own = ray.put(state)
            for parked in self._parked:
                if parked.spec == spec:
                    parked.state = own
            leaving.member.end()

    def can_get(self, ask: Ask) -> str:
        """Empty if one more stage could have a place, now or from an autoscaler; else why not."""
        free, total = ray.available_resources(), ray.cluster_resources()
        wanted = place_one(self.placement, ask, free, self.private)
        amounts = {"CPU": wanted.num_cpus, "GPU": wanted.num_gpus}
        if not self.private or all(free.get(k, 0.0) >= v for k, v in amounts.items()):
            return ""
        return f"{shortage(wanted, 1, free, total)}, and no node joins a local Ray"

    def lose(self, number: int) -> list[StageSpec]:
        """Takes a failed stage out, and those behind it, which it fed; returns them in order.

        One that had left before goes back there, as it was when it left.
        """
        lost = [m for m in self.live if m.spec.number >= number]
        specs = [member.spec for member in lost]
        self.live = [m for m in self.live if m.spec.number < number]
        for member in reversed(lost):
            member.end()
            if member.returned:
                self._park(self._aside.pop(member.spec.number))
        if lost and not lost[0].returned and self.parked:
            # They joined behind the lost stage, and what it fed them is no more.
            specs += self.parked
            self._parked = []
        return specs

    def end(self) -> None:
        """Ends all actors."""
        for member in self.all():
            member.end()
        self.spare.end()
        if self.parked_actor is not None:
            ray.kill(self.parked_actor)
        self.live, self._leaving, self.parked_actor = [], [], None
