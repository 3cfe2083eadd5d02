"""What every engine offers, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.marks import Marks
from scpl_ray.errors import ScplRayError
from scpl_ray.schedule import Work
from scpl_ray.stage_facts import ExitScore, StageSpec, StageStats


@dataclass(frozen=True)
class Done:
    """One piece of work that has passed all stages, with what each stage reported.

    Attributes:
        work: what was done.
        stats: of each stage, for a training step.
        scores: of each stage, those that have left too, for an evaluated batch.
        lost: stages that joined lately, failed at this work and were taken out, with the reason.
        parts: of a durable snapshot.
    """

    work: Work
    stats: tuple[StageStats, ...] = ()
    scores: tuple[ExitScore, ...] = ()
    lost: tuple[tuple[StageSpec, ScplRayError], ...] = ()
    parts: Parts | None = None


@dataclass(frozen=True)
class Parts:
    """The parts of a checkpoint, one of each stage, all as of the same step.

    Attributes:
        step: the next training step.
        specs: the stages that trained then.
        parked: the stages that had left.
        fetch: yields the states of `specs`, then of `parked`; may wait, may be called once, by
            any thread.
        written: to be called once all is on storage.
    """

    step: int
    specs: list[StageSpec]
    parked: list[StageSpec]
    fetch: Callable[[], Iterator[StageState]]
    written: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Failure:
    """A process that died, or a batch that was skipped, and what it cost.

    Attributes:
        who: "stage 2", "the data process", ...
        step: the training step at which it died; -1 where that is not known.
        cause: why, in a line.
        seconds: until the pipeline went on.
    """

    who: str
    step: int
    cause: str
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on.

    Attributes:
        step: the next training step.
        states: of the stages that train.
        parked: the stages that have left, and their states.
        config: the network's config of then.
    """

    step: int
    states: list[StageState]
    parked: list[tuple[StageSpec, StageState]]
    config: Config

    def by_number(self) -> dict[int, StageState]:
        """The states of all stages by their numbers."""
        training = {i + 1: state for i, state in enumerate(self.states)}
        return training | {spec.number: state for spec, state in self.parked}


class Go(Enum):
    """Whether the next piece of work may be sent: what a boundary answers."""

    ON = "on"
    WAIT = "wait"
    STOP = "stop"


Boundary = Callable[[Work], Go]

# A stage that fails within so many batches of joining is taken out; a later failure ends the run.
PROBATION_STEPS = 10


@dataclass(frozen=True)
class DataReady:
    """What the data process says once the data is prepared.

    Attributes:
        info: what the data is.
        steps_per_epoch: training batches of an epoch.
        validation_batches: batches of one look at the validation split.
        test_batches: batches of the look at the test split.
        train_batches: batches of the final look at training samples.
        dropped: samples of each split that had no word left and were left out.
    """

    info: DataInfo
    steps_per_epoch: int
    validation_batches: int
    test_batches: int
    train_batches: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StageState:
    """A stage's tensors for a snapshot or a checkpoint, serialised as safetensors.

    Attributes:
        weights: weights and buffers by global name.
        optimizer: the optimizer's tensors, keyed `PARAMETER NAME/STATE NAME`.
        sha256: digest of the weights; empty in a snapshot, which leaves it out.
        next_step: the step that the stage expects.
        stash: weights kept at the end of epochs (from 0), for `train.select: best`.
    """

    weights: bytes
    optimizer: bytes
    sha256: str
    next_step: int
    stash: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """Resources of a stage that is to join; None: what the other stages hold."""

    num_cpus: float | None = None
    num_gpus: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far a stage that is to join has come.

    Attributes:
        state: "pending" (no resources yet), "starting", "ready", "failed", or "died" (its process
            ended, so another may do better).
        text: for people: what it waits for, or why it failed.
        seconds: what its start was made of, once it is ready.
    """

    state: str
    text: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class Candidate(Protocol):
    """A stage that starts beside a running pipeline."""

    spec: StageSpec

    def poll(self) -> Progress:
        """Looks, without waiting."""

    def cancel(self) -> None:
        """Ends it and gives its resources back."""


class Engine(Protocol):
    """Runs stages over work. Used in the order of the methods."""

    @property
    def threads(self) -> int:
        """CPU threads of each stage."""

    @property
    def specs(self) -> list[StageSpec]:
        """The stages that train, in order."""

    @property
    def parked(self) -> list[StageSpec]:
        """The stages that have left: they only evaluate, after the others."""

    @property
    def failures(self) -> list[Failure]:
        """The faults that this run has survived, the oldest first."""

    @property
    def marks(self) -> Marks:
        """When stages take snapshots."""

    def prepare_data(self, tokenizer: str | None = None) -> DataReady:
        """Loads the data where the batches will be made; with a tokenizer's JSON, by that one."""

    def start(
        self,
        specs: list[StageSpec],
        vectors: tuple | None,
        planned: int | None = None,
        weights: bytes | None = None,
        resumed: Resumed | None = None,
    ) -> list[str]:
        """Builds all stages.

        Args:
            specs: the stages to start with.
            vectors: word vectors for the embedding.
            planned: how many stages there will be at most, where more are planned.
            weights: tensors by global name (safetensors) to start from, where they are there.
            resumed: a run that goes on.

        Returns:
            One line per decision worth saying.
        """

    def run(self, work: Iterable[Work], boundary: Boundary | None = None) -> Iterator[Done]:
        """Streams work through the stages and yields results in the order of the work.

        Args:
            work: what to do.
            boundary: asked before each piece of work is sent; stages join and leave in there.
        """

    def prepare(self, spec: StageSpec, config: Config, ask: Ask) -> Candidate:
        """Starts a stage that is to join; returns at once. A parked one comes back as it was."""

    def join(self, candidate: Candidate, step: int) -> None:
        """Lets batches flow through a ready candidate, from `step` on."""

    def leave(self, config: Config) -> StageSpec:
        """Takes the last stage out of training; it goes on to evaluate.

        Args:
            config: the config of now, with the layers that joined.
        """

    def free_left(self) -> None:
        """Frees the devices of stages that have left by now; does not wait."""

    def can_get(self, ask: Ask) -> str:
        """Empty if a stage could have a place now or later, else why not."""

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the stashes up to the epoch `until`, forgets all but one; does not wait."""

    def restore_stash(self, epoch: int) -> None:
        """Goes back to the stash of an epoch."""

    def states(self) -> Iterator[StageState]:
        """Yields the state of each stage with its digest; those that have left last."""

    def close(self) -> None:
        """Ends everything that the engine started."""
