"""The streamed pipeline: one Ray actor per stage, activations through the object store.

This process holds the loop and passes references, never bytes:

    batch(t) -> stage 1 forward(t) -> stage 2 forward(t) -> ... -> stage S train(t)
                        update(t)             update(t)

Every reference is dropped as soon as its consumer is queued, so an activation lives only until
it is read. At most `in_flight` batches are under way; the oldest must end before the next starts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine import cluster
from scpl_ray.engine.base import (
    Ask,
    Boundary,
    Candidate,
    DataReady,
    Done,
    Go,
    StageState,
)
from scpl_ray.engine.data_actor import DataActor
from scpl_ray.engine.members import BuildArgs, Member, Members, RayCandidate, remote
from scpl_ray.engine.placement import Placement, place, shortage, threads_per_stage
from scpl_ray.engine.wording import first_cause, late, worded
from scpl_ray.errors import PipelineTimeoutError, ResourceError, ScplRayError
from scpl_ray.models.text import WordVectors
from scpl_ray.stage_facts import StageSpec

_LOOK_AGAIN_S = 0.02


@dataclass
class _Flying:
    work: schedule.Work
    batch: Any = None
    answers: list[tuple[int, Any]] = field(default_factory=list)
    lost: list[tuple[StageSpec, ScplRayError]] = field(default_factory=list)


class RayEngine:
    """Streams work through stage actors.

    Args:
        config: the run's config.
        debug: show Ray's own log and the actors' output.
    """

    def __init__(self, config: Config, debug: bool = False) -> None:
        self.config = config
        self._shapes: dict[int, str] = {}
        self._owns_ray = cluster.connect(config, debug)
        self.members = Members(config, cluster.is_private(config))
        near = cluster.beside_driver()
        self._data = remote(DataActor, num_cpus=0, scheduling_strategy=near).remote(config)
        self._flying: deque[_Flying] = deque()

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

    def prepare_data(self, tokenizer: str | None = None) -> DataReady:
        """Loads the data in the data actor."""
        limit = self.config.pipeline.prepare_timeout_s
        self.ready: DataReady = self._get(
            self._data.prepare.remote(tokenizer), "the data process", "prepare_timeout_s", limit
        )
        return self.ready

    def start(
        self,
        specs: list[StageSpec],
        vectors: WordVectors | None,
        planned: int | None = None,
        weights: bytes | None = None,
    ) -> list[str]:
        """Places and builds the first stages at once; see `Engine.start`.

        Raises:
            ResourceError: the cluster does not give the resources in time.
        """
        config, ready = self.config, self.ready
        most = max(len(specs), planned or 0)
        placement = place(config, most, ray.cluster_resources(), self.members.private)
        args = BuildArgs(
            ready.info,
            ready.steps_per_epoch * config.train.epochs,
            ready.steps_per_epoch,
            None if vectors is None else ray.put(vectors),
            None if weights is None else ray.put(weights),
        )
        built = self.members.start(specs, placement, threads_per_stage(config, most), args)
        self._wait_built(built, placement)
        self.pids = [self._get(ref, f"stage {i}").pid for i, ref in enumerate(built, 1)]
        return [placement.line]

    def _wait_built(self, built: list[Any], placement: Placement) -> None:
        limit = self.config.pipeline.start_timeout_s
        _, late = ray.wait(built, num_returns=len(built), timeout=limit)
        if not late:
            return
        names = ", ".join(str(built.index(ref) + 1) for ref in late)
        free, total = ray.available_resources(), ray.cluster_resources()
        raise ResourceError(
            f"stages {names} did not start within pipeline.start_timeout_s = {limit:g} s; "
            f"{shortage(placement, len(built), free, total)}. Free resources, use fewer stages, "
            "or raise the timeout"
        )

    def run(
        self, work: Iterable[schedule.Work], boundary: Boundary | None = None
    ) -> Iterator[Done]:
        """Keeps the window full and yields results in order."""
        flying = self._flying
        for item, batch in self._with_batches(work):
            while len(flying) >= self.config.pipeline.in_flight:
                yield self._finish(flying.popleft())
            while boundary is not None and (go := boundary(item)) is not Go.ON:
                if go is Go.STOP:
                    break
                if flying:
                    yield self._finish(flying.popleft())
                else:
                    time.sleep(_LOOK_AGAIN_S)
            else:
                flying.append(self._submit(item, batch))
                del batch
                continue
            break
        while flying:
            yield self._finish(flying.popleft())

    def _with_batches(self, work: Iterable[schedule.Work]) -> Iterator[tuple[schedule.Work, Any]]:
        """Asks the data actor for batches ahead of their use."""
        ahead: deque[tuple[schedule.Work, Any]] = deque()
        for item in work:
            made = None if isinstance(item, schedule.Stash) else self._data.batch.remote(item)
            ahead.append((item, made))
            del made
            if len(ahead) > self.config.pipeline.prefetch:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()

    def _submit(self, item: schedule.Work, batch: Any) -> _Flying:
        flying, packet = _Flying(item, batch), batch
        stages = self.members.live
        for member in stages:
            number, actor, last = member.spec.number, member.actor, member is stages[-1]
            if isinstance(item, schedule.Stash):
                flying.answers.append((number, actor.stash.remote(item.epoch)))
            elif isinstance(item, schedule.Evaluate):
                packet, score = actor.evaluate.remote(packet, last and not self.parked)
                flying.answers.append((number, score))
            elif last:
                flying.answers.append((number, actor.train.remote(item, packet)))
            else:
                packet = actor.forward.remote(item, packet)
                flying.answers.append((number, actor.update.remote(item)))
        if isinstance(item, schedule.Evaluate) and self.parked:
            scores = self.members.parked_actor.evaluate.remote(packet)
            flying.answers.append((self.parked[0].number, scores))
        return flying

    def _finish(self, flying: _Flying) -> Done:
        limit = self.config.pipeline.step_timeout_s
        refs = [ref for _, ref in flying.answers]
        arrived = set(ray.wait(refs, num_returns=len(refs), timeout=limit)[0])
        results = []
        for number, ref in list(flying.answers):
            try:
                if ref not in arrived:
                    raise late(flying.work, flying.batch, number, self._shapes.get(number), limit)
                results.append(self._answer(flying, number, ref))
            except ScplRayError as error:
                if not self._lose(flying, number, error):
                    raise
                break
        work, lost = flying.work, tuple(flying.lost)
        if isinstance(work, schedule.Train):
            self._shapes = {s.stage: s.shapes for s in results}
            return Done(work, stats=tuple(results), lost=lost)
        if isinstance(work, schedule.Evaluate):
            scores = [s for r in results for s in (r if isinstance(r, list) else [r])]
            return Done(work, scores=tuple(scores), lost=lost)
        return Done(work, lost=lost)

    def _answer(self, flying: _Flying, number: int, ref: Any) -> Any:
        try:
            result = ray.get(ref)
        except Exception as error:
            raise first_cause(
                flying.work, flying.batch, number, self._shapes.get(number, ""), error
            ) from None
        member = self._member(number)
        if member is not None and isinstance(flying.work, schedule.Train):
            member.finished += 1
        return result

    def _member(self, number: int) -> Member | None:
        return next((m for m in self.members.live if m.spec.number == number), None)

    def _lose(self, flying: _Flying, number: int, error: ScplRayError) -> bool:
        """Takes out a stage that joined lately and failed; the others never depended on it."""
        member = self._member(number)
        if member is None or not member.on_probation:
            return False
        flying.lost += [(spec, error) for spec in self.members.lose(number)]
        for other in self._flying:
            other.answers = [(n, ref) for n, ref in other.answers if n < number]
        return True

    def _get(
        self, ref: Any, who: str, key: str = "step_timeout_s", limit: float | None = None
    ) -> Any:
        limit = self.config.pipeline.step_timeout_s if limit is None else limit
        try:
            return ray.get(ref, timeout=limit)
        except GetTimeoutError:
            raise PipelineTimeoutError(
                f"{who} did not answer within pipeline.{key} = {limit:g} s; it hangs or is that "
                "slow: raise the timeout"
            ) from None
        except (RayTaskError, RayActorError) as error:
            raise worded(error, who) from None

    def prepare(self, spec: StageSpec, config: Config, ask: Ask) -> RayCandidate:
        """Starts a stage that is to join; see `Engine.prepare`."""
        return self.members.prepare(spec, config, ask)

    def join(self, candidate: Candidate, step: int) -> None:
        """Lets batches flow through a ready candidate, from `step` on."""
        assert isinstance(candidate, RayCandidate)
        self.members.join(candidate, step)

    def leave(self, config: Config) -> StageSpec:
        """Takes the last stage out of training."""
        return self.members.leave(config)

    def left(self) -> list[tuple[StageSpec, StageState]]:
        """The states of stages that have left since the last call."""
        return self.members.left()

    def can_get(self, ask: Ask) -> str:
        """Empty if a stage could have a place now or later, else why not."""
        return self.members.can_get(ask)

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the stashes up to the epoch `until`, forgets all but one; does not wait."""
        for member in self.members.live:
            member.actor.keep_stash.remote(epoch, until)

    def restore_stash(self, epoch: int) -> None:
        """Goes back to the stash of an epoch."""
        for member in self.members.live:
            self._get(member.actor.restore_stash.remote(epoch), f"stage {member.spec.number}")

    def states(self) -> Iterator[StageState]:
        """Fetches the state of one stage after the other, those that have left last."""
        for member in self.members.live:
            yield self._get(member.actor.state.remote(), f"stage {member.spec.number}")
        for spec in self.parked:
            ref = self.members.parked_actor.state.remote(spec.number)
            yield self._get(ref, f"stage {spec.number}")

    def close(self) -> None:
        """Ends the actors, and Ray if this engine started it."""
        if not ray.is_initialized():
            return
        if self._owns_ray:
            cluster.disconnect()
            return
        self.members.end()
        ray.kill(self._data)
        # Their names are gone at once, their processes a moment later.
        time.sleep(0.1)
