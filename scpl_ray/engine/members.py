"""The stage actors of a run: those that train, one that starts, and those that have left."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.actors import ParkedActor, StageActor, Started
from scpl_ray.engine.base import PROBATION_STEPS, Ask, Progress, StageState
from scpl_ray.engine.placement import Placement, place_one, shortage
from scpl_ray.engine.wording import worded
from scpl_ray.stage_facts import StageSpec


def remote(kind: type, **options: Any) -> Any:
    """An actor class without retries: a method that ran twice would train a batch twice."""
    return ray.remote(kind).options(max_restarts=0, max_task_retries=0, **options)


@dataclass
class Member:
    """A stage that trains.

    Attributes:
        spec: which stage.
        actor: its handle.
        group: the placement group that holds its resources; None where it needs none.
        joined: whether it joined a run that was under way.
        returned: whether it had left before.
        finished: batches that it has finished since.
    """

    spec: StageSpec
    actor: Any
    group: PlacementGroup | None = None
    joined: bool = False
    returned: bool = False
    finished: int = 0

    @property
    def on_probation(self) -> bool:
        """Whether its failure is not yet the run's."""
        return self.joined and self.finished < PROBATION_STEPS

    def end(self) -> None:
        """Ends the actor and gives its resources back."""
        ray.kill(self.actor)
        if self.group is not None:
            remove_placement_group(self.group)


@dataclass(frozen=True)
class BuildArgs:
    """What every stage is built from.

    Attributes:
        info: what the data is.
        total_steps: training steps of the run.
        steps_per_epoch: training steps of an epoch.
        vectors: reference to word vectors for the embedding, or None.
        weights: reference to the weights to start from, or None.
    """

    info: DataInfo
    total_steps: int
    steps_per_epoch: int
    vectors: Any = None
    weights: Any = None

    def build(self, actor: Any, device: str, state: Any = None) -> Any:
        """Has an actor build its stage; returns the reference to its `Started`."""
        return actor.build.remote(
            self.info,
            self.total_steps,
            self.steps_per_epoch,
            device,
            self.vectors,
            self.weights,
            state,
        )


class RayCandidate:
    """A stage that starts beside the pipeline: its actor is placed, imports and builds.

    Its resources are a placement group of one bundle, which is what an autoscaler sees, and what
    tells waiting for resources from starting.
    """

    def __init__(
        self,
        spec: StageSpec,
        config: Config,
        threads: int,
        paths: list[str],
        placement: Placement,
        args: BuildArgs,
        state: Any = None,
    ) -> None:
        self.spec, self.placement = spec, placement
        self.requested_at = time.time()
        wanted = {"CPU": placement.num_cpus, "GPU": placement.num_gpus}
        bundle = {name: amount for name, amount in wanted.items() if amount}
        self.group = placement_group([bundle]) if bundle else None
        options: dict[str, Any] = {"num_cpus": placement.num_cpus, "num_gpus": placement.num_gpus}
        if self.group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.group, 0)
        self.actor = remote(StageActor, **options).remote(spec, config, threads, paths)
        self._built = args.build(self.actor, placement.device, state)
        self._end: Progress | None = None
        self._placed = self.group is None

    def poll(self) -> Progress:
        """Looks, without waiting."""
        if self._end is not None:
            return self._end
        if ray.wait([self._built], timeout=0)[0]:
            try:
                started: Started = ray.get(self._built)
            except Exception as error:
                self._end = Progress("failed", str(worded(error, f"stage {self.spec.number}")))
            else:
                self._end = Progress("ready", seconds=self._seconds(started))
            return self._end
        if self.group is not None and not self._placed:
            self._placed = self.group.wait(0.001)
        if self._placed:
            return Progress("starting", self.placement.line or "its process imports and builds")
        return Progress("pending", self.shortage())

    def shortage(self) -> str:
        """Asked against free and there."""
        return shortage(self.placement, 1, ray.available_resources(), ray.cluster_resources())

    def _seconds(self, started: Started) -> dict[str, float]:
        # A worker that Ray made ahead of the request costs no process start.
        scheduled = max(self.requested_at, min(started.process_at, started.imports_at))
        return {
            "scheduling": scheduled - self.requested_at,
            "process": started.imports_at - scheduled,
            "imports": started.init_at - started.imports_at,
            "build": started.built_at - started.init_at,
        }

    def cancel(self) -> None:
        """Ends the actor and gives its resources back."""
        Member(self.spec, self.actor, self.group).end()


@dataclass
class _Leaving:
    member: Member
    state: Any


class Members:
    """Holds the stages of one run.

    Args:
        config: the run's config.
        private: Ray is this run's own.
    """

    def __init__(self, config: Config, private: bool) -> None:
        self.config, self.private = config, private
        self.live: list[Member] = []
        self.parked: list[StageSpec] = []
        self.parked_actor: Any = None
        self.threads = 1
        self.placement = Placement("cpu", 0.0, 0.0, "")
        self._leaving: list[_Leaving] = []
        self._args = BuildArgs(DataInfo("", "", "text", (), {}), 0, 1)
        self.paths = [str(Path.cwd()), *[p for p in sys.path if p]]

    def start(
        self, specs: list[StageSpec], placement: Placement, threads: int, args: BuildArgs
    ) -> list[Any]:
        """Places and builds the first stages; returns references to their `Started`."""
        self.placement, self.threads, self._args = placement, threads, args
        make = remote(StageActor, num_cpus=placement.num_cpus, num_gpus=placement.num_gpus)
        self.live = [
            Member(spec, make.remote(spec, self.config, threads, self.paths)) for spec in specs
        ]
        return [args.build(member.actor, placement.device) for member in self.live]

    def prepare(self, spec: StageSpec, config: Config, ask: Ask) -> RayCandidate:
        """Starts a stage that is to join; a parked one goes on from its state."""
        placement = place_one(self.placement, ask, ray.available_resources(), self.private)
        state = None
        if spec in self.parked:
            state = self.parked_actor.state.remote(spec.number)
        return RayCandidate(spec, config, self.threads, self.paths, placement, self._args, state)

    def join(self, candidate: RayCandidate, step: int) -> None:
        """Appends a ready candidate to the stages that train."""
        candidate.actor.begin.remote(step)
        spec, returned = candidate.spec, candidate.spec in self.parked
        self.live.append(Member(spec, candidate.actor, candidate.group, True, returned))
        if returned:
            self.parked.remove(spec)
            self.parked_actor.set_aside.remote(spec.number)

    def leave(self, config: Config) -> StageSpec:
        """Moves the last stage behind what it has been sent, then among those that only evaluate.

        Args:
            config: the network's config of now, with the layers that joined.
        """
        member = self.live.pop()
        if self.parked_actor is None:
            make = remote(ParkedActor, num_cpus=0)
            self.parked_actor = make.remote(self.config, self.threads, self.paths)
        args, state = self._args, member.actor.state.remote()
        totals = (args.total_steps, args.steps_per_epoch)
        added = self.parked_actor.add.remote(member.spec, config, args.info, totals, state)
        self.parked.insert(0, member.spec)
        self._leaving.append(_Leaving(member, added))
        return member.spec

    def left(self) -> list[tuple[StageSpec, StageState]]:
        """Frees the device of each stage that has left by now; returns their states.

        Raises:
            ScplRayError: a stage could not be taken over.
        """
        arrived = []
        for leaving in list(self._leaving):
            if not ray.wait([leaving.state], timeout=0)[0]:
                continue
            self._leaving.remove(leaving)
            spec = leaving.member.spec
            try:
                arrived.append((spec, ray.get(leaving.state)))
            except Exception as error:
                raise worded(error, f"stage {spec.number}, leaving,") from None
            finally:
                leaving.member.end()
        return arrived

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
                self.parked.insert(0, member.spec)
                self.parked_actor.take_back.remote(member.spec.number)
        if lost and not lost[0].returned and self.parked:
            # They joined behind the lost stage, and what it fed them is no more.
            specs += self.parked
            self.parked = []
            self.parked_actor.forget_all.remote()
        return specs

    def end(self) -> None:
        """Ends all actors."""
        for member in [*self.live, *(leaving.member for leaving in self._leaving)]:
            member.end()
        if self.parked_actor is not None:
            ray.kill(self.parked_actor)
        self.live, self._leaving, self.parked_actor = [], [], None
