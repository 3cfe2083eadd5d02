"""The streamed pipeline: one Ray actor per stage, activations through the object store.

This process holds the loop and passes references, never bytes:

    batch(t) -> stage 1 forward(t) -> stage 2 forward(t) -> ... -> stage S train(t)
                        update(t)             update(t)

Every reference is dropped as soon as its consumer is queued, so an activation lives only until
it is read. At most `in_flight` batches are under way; the oldest must end before the next starts.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine import cluster
from scpl_ray.engine.actors import DataActor, StageActor
from scpl_ray.engine.base import DataReady, Done, StageState
from scpl_ray.engine.placement import Placement, place, shortage, threads_per_stage
from scpl_ray.errors import (
    PipelineTimeoutError,
    ResourceError,
    RunError,
    ScplRayError,
    StageError,
)
from scpl_ray.models.text import WordVectors
from scpl_ray.stage_module import StageSpec


@dataclass
class _Flying:
    work: schedule.Work
    batch: Any = None
    answers: list[Any] = field(default_factory=list)


class RayEngine:
    """Streams work through stage actors.

    Args:
        config: the run's config.
        debug: show Ray's own log and the actors' output.
    """

    def __init__(self, config: Config, debug: bool = False) -> None:
        self.config = config
        self.threads = 1
        self.stages: list[Any] = []
        self._shapes: dict[int, str] = {}
        self._owns_ray = cluster.connect(config, debug)
        self._data = self._actor(DataActor, num_cpus=0).remote(config)

    def _actor(self, kind: type, **resources: float) -> Any:
        # No retries: a method that ran twice, or in another order, would train a batch twice.
        return ray.remote(kind).options(max_restarts=0, max_task_retries=0, **resources)

    def prepare_data(self) -> DataReady:
        """Loads the data in the data actor."""
        limit = self.config.pipeline.prepare_timeout_s
        self.ready: DataReady = self._get(
            self._data.prepare.remote(), "the data process", "prepare_timeout_s", limit
        )
        return self.ready

    def start(self, specs: list[StageSpec], vectors: WordVectors | None) -> list[str]:
        """Places and builds all stages at once.

        Raises:
            ResourceError: the cluster does not give the resources in time.
        """
        config, ready = self.config, self.ready
        total = ray.cluster_resources()
        placement = place(config, len(specs), total)
        self.threads = threads_per_stage(config, len(specs))
        paths = [str(Path.cwd()), *[p for p in sys.path if p]]
        make = self._actor(StageActor, num_cpus=placement.num_cpus, num_gpus=placement.num_gpus)
        self.stages = [make.remote(spec, config, self.threads, paths) for spec in specs]
        shared = ray.put(vectors) if vectors is not None else None
        steps = ready.steps_per_epoch * config.train.epochs
        built = [
            stage.build.remote(ready.info, steps, ready.steps_per_epoch, placement.device, shared)
            for stage in self.stages
        ]
        self._wait_built(built, placement)
        self.pids: list[int] = [self._get(ref, f"stage {i}") for i, ref in enumerate(built, 1)]
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

    def run(self, work: Iterable[schedule.Work]) -> Iterator[Done]:
        """Keeps the window full and yields results in order."""
        flying: deque[_Flying] = deque()
        for item, batch in self._with_batches(work):
            while len(flying) >= self.config.pipeline.in_flight:
                yield self._finish(flying.popleft())
            flying.append(self._submit(item, batch))
            del batch
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
        *inner, last = self.stages
        if isinstance(item, schedule.Train):
            for stage in inner:
                packet = stage.forward.remote(item, packet)
                flying.answers.append(stage.update.remote(item))
            flying.answers.append(last.train.remote(item, packet))
        elif isinstance(item, schedule.Evaluate):
            for stage in self.stages:
                packet, score = stage.evaluate.remote(packet, stage is last)
                flying.answers.append(score)
        else:
            flying.answers = [stage.stash.remote(item.epoch) for stage in self.stages]
        return flying

    def _finish(self, flying: _Flying) -> Done:
        limit = self.config.pipeline.step_timeout_s
        ready, _ = ray.wait(flying.answers, num_returns=len(flying.answers), timeout=limit)
        arrived = set(ready)
        results = []
        for number, ref in enumerate(flying.answers, 1):
            if ref not in arrived:
                self._explain_late(flying, number, limit)
            try:
                results.append(ray.get(ref))
            except Exception as error:
                raise self._failure(flying, number, error) from None
        if isinstance(flying.work, schedule.Train):
            self._shapes = {s.stage: s.shapes for s in results}
            return Done(flying.work, stats=tuple(results))
        if isinstance(flying.work, schedule.Evaluate):
            return Done(flying.work, scores=tuple(results))
        return Done(flying.work)

    def _explain_late(self, flying: _Flying, number: int, limit: float) -> None:
        if flying.batch is not None and not ray.wait([flying.batch], timeout=0)[0]:
            raise PipelineTimeoutError(
                f"the data process did not deliver {flying.work} within "
                f"pipeline.step_timeout_s = {limit:g} s; raise it if the data is that slow"
            )
        raise PipelineTimeoutError(
            f"stage {number} did not finish {flying.work} within pipeline.step_timeout_s = "
            f"{limit:g} s (its last input: {self._shapes.get(number, 'none yet')}); it hangs or is "
            "that slow: raise the timeout, or try pipeline.engine=local"
        )

    def _failure(self, flying: _Flying, number: int, error: Exception) -> ScplRayError:
        """Finds the first cause: the data process, or the earliest stage that failed."""
        if flying.batch is not None:
            try:
                ray.get(flying.batch, timeout=1)
            except GetTimeoutError:
                pass
            except Exception as of_data:
                return _worded(of_data, "the data process")
        work = flying.work
        step = work.step if isinstance(work, schedule.Train) else -1
        if isinstance(error, RayActorError):
            cause = f"its process ended unexpectedly ({_first_line(error)})"
            return StageError(number, step, self._shapes.get(number, ""), cause, str(error))
        return _worded(error, f"stage {number}")

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
            raise _worded(error, who) from None

    def keep_stash(self, epoch: int | None, restore: bool = False) -> None:
        """Forgets the stashes but one; with `restore`, goes back to it."""
        for number, stage in enumerate(self.stages, 1):
            self._get(stage.keep_stash.remote(epoch, restore), f"stage {number}")

    def states(self) -> Iterator[StageState]:
        """Fetches the state of one stage after the other."""
        for number, stage in enumerate(self.stages, 1):
            yield self._get(stage.state.remote(), f"stage {number}")

    def close(self) -> None:
        """Ends the actors, and Ray if this engine started it."""
        if not ray.is_initialized():
            return
        if self._owns_ray:
            cluster.disconnect()
            return
        for actor in [*self.stages, self._data]:
            ray.kill(actor)
        # Their names are gone at once, their processes a moment later.
        time.sleep(0.1)
        self.stages = []


def _worded(error: Exception, who: str) -> ScplRayError:
    cause = getattr(error, "cause", None)
    if isinstance(cause, ScplRayError):
        return cause
    if isinstance(error, ScplRayError):
        return error
    failure = RunError(f"{who} failed: {_first_line(cause or error)}")
    failure.__cause__ = error
    return failure


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if isinstance(error, RayActorError) else f"{type(error).__name__}: {text}"
