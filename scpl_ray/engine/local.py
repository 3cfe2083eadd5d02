"""All stages in this process, one after another: for debugging, and the yardstick of exactness."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine.base import (
    PROBATION_STEPS,
    Ask,
    Boundary,
    Candidate,
    DataReady,
    Done,
    Failure,
    Go,
    Parts,
    Progress,
    Resumed,
    StageState,
)
from scpl_ray.engine.build import build_stage, prepare_process, stage_state
from scpl_ray.engine.data import fetch, load_data
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.marks import Marks
from scpl_ray.engine.placement import threads_per_stage
from scpl_ray.errors import ScplRayError
from scpl_ray.models.activation import Activation, from_batch
from scpl_ray.models.text import WordVectors
from scpl_ray.objective import is_end_to_end
from scpl_ray.stage import Stage
from scpl_ray.stage_facts import StageSpec, StageStats


@dataclass
class LocalCandidate:
    """A stage that is built at once."""

    spec: StageSpec
    stage: Stage | None
    progress: Progress

    def poll(self) -> Progress:
        """Ready, or failed, from the beginning."""
        return self.progress

    def cancel(self) -> None:
        """Forgets the stage."""
        self.stage = None


class LocalEngine:
    """Runs stages 1..S in order on each batch.

    Args:
        config: the run's config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._threads = 1
        self.stages: list[Stage] = []
        self.away: list[Stage] = []
        self._probation: dict[int, int] = {}
        self._aside: dict[int, Stage] = {}
        self.failures: list[Failure] = []
        self.marks = Marks(config.fault_tolerance, memory=False)
        self._weights: bytes | None = None
        self._threads_before = torch.get_num_threads()
        self._rng_before = torch.random.get_rng_state()

    @property
    def threads(self) -> int:
        """CPU threads of each stage."""
        return self._threads

    @property
    def specs(self) -> list[StageSpec]:
        """The stages that train, in order."""
        return [stage.spec for stage in self.stages]

    @property
    def parked(self) -> list[StageSpec]:
        """The stages that have left and only evaluate."""
        return [stage.spec for stage in self.away]

    def prepare_data(self, tokenizer: str | None = None) -> DataReady:
        """Loads the data in this process."""
        self.loader, self.ready = load_data(self.config, tokenizer)
        return self.ready

    def start(
        self,
        specs: list[StageSpec],
        vectors: WordVectors | None,
        planned: int | None = None,
        weights: bytes | None = None,
        resumed: Resumed | None = None,
    ) -> list[str]:
        """Builds the first stages in this process; see `Engine.start`."""
        most = self.config.processes(max(len(specs), planned or 0))
        self._threads = threads_per_stage(self.config, most)
        self.marks.rounds = self.config.rounds(self.ready.steps_per_epoch)
        prepare_process(self.config, self._threads)
        cuda = self.config.resources.device != "cpu" and torch.cuda.is_available()
        self._device = "cuda" if cuda else "cpu"
        self._vectors, self._weights = vectors, weights
        if resumed is None:
            self.stages = [self._build(spec, self.config) for spec in specs]
        else:
            both = zip(specs, resumed.states, strict=True)
            self.stages = [self._build(spec, resumed.config, state) for spec, state in both]
            self.away = [self._build(spec, resumed.config, s) for spec, s in resumed.parked]
        return [
            f"local engine: {len(specs)} stages in this process, one after another, {self._device}"
        ]

    def _build(self, spec: StageSpec, config: Config, state: StageState | None = None) -> Stage:
        per_epoch = self.ready.steps_per_epoch
        total = per_epoch * config.train.epochs
        device, vectors = self._device, self._vectors
        return build_stage(
            spec, config, self.ready.info, total, per_epoch, device, vectors, self._weights, state
        )

    def run(
        self, work: Iterable[schedule.Work], boundary: Boundary | None = None
    ) -> Iterator[Done]:
        """Does each piece of work with all stages before the next."""
        for item in self.marks.among(work):
            while boundary is not None and (go := boundary(item)) is not Go.ON:
                if go is Go.STOP:
                    return
            if isinstance(item, schedule.Train | schedule.Evaluate):
                yield self._one(item)
            elif isinstance(item, schedule.Snapshot):
                yield Done(item, parts=self._parts(item.step))
            else:
                for stage in self.stages:
                    if isinstance(item, schedule.Stash):
                        stage.stash(item.epoch)
                    else:
                        stage.restore_stash(item.epoch)
                yield Done(item)

    def _parts(self, step: int) -> Parts:
        states = [stage_state(stage, digest=False) for stage in [*self.stages, *self.away]]
        return Parts(step, self.specs, self.parked, lambda: iter(states))

    def _one(self, item: schedule.Train | schedule.Evaluate) -> Done:
        activation, labels = from_batch(fetch(self.loader, item))
        training = isinstance(item, schedule.Train)
        if isinstance(item, schedule.Train) and is_end_to_end(self.config.method):
            return self._there_and_back(item, activation, labels)
        stats, scores = [], []
        for stage in self.stages if training else [*self.stages, *self.away]:
            own = activation.map(partial(_copy_to, stage.device))
            there = labels.to(stage.device)
            number = stage.spec.number
            try:
                if isinstance(item, schedule.Train):
                    activation = stage.forward(item.step, own, there)
                    stats.append(stage.update(item.step))
                    self._probation[number] = self._probation.get(number, 0) - 1
                else:
                    activation, score = stage.evaluate(own, there)
                    scores.append(score)
            except Exception as error:
                known = isinstance(error, ScplRayError)
                failure = error if known else stage_error(number, item, own, error)
                if self._probation.get(number, 0) <= 0:
                    raise failure from None if known else error
                assert isinstance(failure, ScplRayError)
                if stage in self.away:
                    raise failure from None if known else error
                lost = tuple((spec, failure) for spec in self._lose(number))
                return Done(item, tuple(stats), tuple(scores), lost)
        return Done(item, tuple(stats), tuple(scores))

    def _there_and_back(self, item: schedule.Train, activation: Activation, labels: Tensor) -> Done:
        """Trains end to end: forward through all stages, then the gradient back."""
        stats: list[StageStats] = []
        gradient = None
        shown = activation
        try:
            for stage in self.stages:
                shown = activation.map(partial(_copy_to, stage.device))
                activation = stage.forward(item.step, shown, labels.to(stage.device))
            for stage in reversed(self.stages):
                if gradient is not None:
                    gradient = gradient.map(partial(_copy_to, stage.device))
                stats.insert(0, stage.update(item.step, gradient))
                gradient = stage.input_gradient
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(stage.spec.number, item, shown, error) from error
        return Done(item, tuple(stats))

    def _lose(self, number: int) -> list[StageSpec]:
        lost = [s for s in self.stages if s.spec.number >= number]
        specs = [stage.spec for stage in lost]
        self.stages = [s for s in self.stages if s.spec.number < number]
        back = [self._aside[n] for n in (s.number for s in specs) if n in self._aside]
        if not back:
            # Those that have left joined behind the lost stage: what it fed them is no more.
            specs += self.parked
            self.away = []
        self.away = back + self.away
        return specs

    def prepare(self, spec: StageSpec, config: Config, ask: Ask) -> LocalCandidate:
        """Builds a stage that is to join; a parked one goes on from its state."""
        begun = time.time()
        parked = next((s for s in self.away if s.spec == spec), None)
        try:
            stage = self._build(spec, config, None if parked is None else stage_state(parked))
        except Exception as error:
            return LocalCandidate(spec, None, Progress("failed", str(error)))
        seconds = {"build": time.time() - begun}
        return LocalCandidate(spec, stage, Progress("ready", seconds=seconds))

    def join(self, candidate: Candidate, step: int) -> None:
        """Lets batches flow through a candidate, from `step` on."""
        assert isinstance(candidate, LocalCandidate) and candidate.stage is not None
        number = candidate.spec.number
        candidate.stage.begin(step)
        self.stages.append(candidate.stage)
        self._probation[number] = PROBATION_STEPS
        if candidate.spec in self.parked:
            self._aside[number] = self.away.pop(0)

    def leave(self, config: Config) -> StageSpec:
        """Takes the last stage out of training; it goes on to evaluate."""
        stage = self.stages.pop()
        self._aside.pop(stage.spec.number, None)
        self.away.insert(0, stage)
        return stage.spec

    def free_left(self) -> None:
        """Stages that have left hold nothing here."""

    def can_get(self, ask: Ask) -> str:
        """This process has room for every stage."""
        return ""

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the stashes up to the epoch `until`, forgets all but one."""
        for stage in self.stages:
            stage.keep_stash(epoch, until)

    def restore_stash(self, epoch: int) -> None:
        """Goes back to the stash of an epoch."""
        for stage in self.stages:
            stage.restore_stash(epoch)

    def states(self) -> Iterator[StageState]:
        """Yields the state of each stage, those that have left last."""
        yield from map(stage_state, [*self.stages, *self.away])

    def close(self) -> None:
        """Gives the process's threads and random state back as they were."""
        self.stages, self.away = [], []
        torch.set_num_threads(self._threads_before)
        torch.random.set_rng_state(self._rng_before)


def _copy_to(device: torch.device, tensor: Tensor) -> Tensor:
    return tensor.to(device, copy=True)
