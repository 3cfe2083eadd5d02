"""A stage that starts beside the pipeline, until it is ready to join."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scpl_ray.config.schema import Config
from scpl_ray.engine.actors import StageActor
from scpl_ray.engine.base import Progress
from scpl_ray.engine.member import BuildArgs, Member, remote
from scpl_ray.engine.placement import Placement, shortage
from scpl_ray.engine.replica_actor import ReplicaActor
from scpl_ray.engine.started import Started
from scpl_ray.engine.wording import worded
from scpl_ray.stage_facts import StageSpec


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
        self.spec, self.config, self.placement, self.state = spec, config, placement, state
        self.requested_at = time.time()
        self.started: Started | None = None
        wanted = {"CPU": placement.num_cpus, "GPU": placement.num_gpus}
        bundle = {name: amount for name, amount in wanted.items() if amount}
        count = config.replicas_of(spec.number)
        self.group = placement_group([bundle] * count) if bundle else None
        options = {"num_cpus": placement.num_cpus, "num_gpus": placement.num_gpus, **args.options}
        kind = StageActor if count == 1 else ReplicaActor
        self.actors = []
        for i in range(count):
            if self.group is not None:
                options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.group, i)
            self.actors.append(remote(kind, **options).remote(config, threads, paths))
        self._built = args.build(self.actors, spec, config, placement.device, state)
        self._end: Progress | None = None
        self._placed = self.group is None

    def poll(self) -> Progress:
        """Looks, without waiting."""
        if self._end is not None:
            return self._end
        if ray.wait([self._built], timeout=0)[0]:
            try:
                self.started = started = ray.get(self._built)
            except RayActorError as error:
                self._end = Progress("died", str(worded(error, f"stage {self.spec.number}")))
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
        return shortage(
            self.placement, len(self.actors), ray.available_resources(), ray.cluster_resources()
        )

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
        self.member().end()

    def member(self) -> Member:
        """As a stage that trains, once it is ready."""
        return Member(
            self.spec,
            self.config,
            self.actors[0],
            self.placement.device,
            self.group,
            joined=True,
            origin=self.state,
            started=self.started,
            replicas=self.actors[1:],
        )
