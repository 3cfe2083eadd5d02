"""What every engine offers, and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from scpl_ray.data.batch import DataInfo
from scpl_ray.schedule import Work
from scpl_ray.stage import ExitScore, StageStats
from scpl_ray.stage_module import StageSpec


@dataclass(frozen=True)
class Done:
    """One piece of work that has passed all stages, with what each stage reported."""

    work: Work
    stats: tuple[StageStats, ...] = ()
    scores: tuple[ExitScore, ...] = ()


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
    """A stage's tensors for a checkpoint, serialised as safetensors."""

    weights: bytes
    optimizer: bytes
    sha256: str
    next_step: int


class Engine(Protocol):
    """Runs stages over work. Used in the order of the methods."""

    threads: int

    def prepare_data(self) -> DataReady:
        """Loads the data where the batches will be made."""

    def start(self, specs: list[StageSpec], vectors: tuple | None) -> list[str]:
        """Builds all stages; returns one line per placement decision worth saying."""

    def run(self, work: Iterable[Work]) -> Iterator[Done]:
        """Streams work through the stages and yields results in the order of the work."""

    def keep_stash(self, epoch: int | None, restore: bool = False) -> None:
        """Forgets the stashes but one; with `restore`, goes back to it."""

    def states(self) -> Iterator[StageState]:
        """Yields the state of each stage, one at a time."""

    def close(self) -> None:
        """Ends everything that the engine started."""
