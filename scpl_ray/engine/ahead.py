"""Batches ahead of their use: what goes into one call together, and has been asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scpl_ray import schedule
from scpl_ray.config.running import PipelineConfig
from scpl_ray.engine.call_size import CallSize
from scpl_ray.engine.calls import Piece
from scpl_ray.engine.members import Members
from scpl_ray.engine.source import Source


@dataclass
class Coming:
    """Work that has not been sent, and its batch."""

    work: schedule.Work
    batch: Piece | None = None


class Ahead:
    """Asks the data process for the batches of the next calls.

    Args:
        source: the data process.
        members: the stages.
        size: how many batches a call takes.
        pipeline: calls whose batches are asked for before they are sent.
    """

    def __init__(
        self, source: Source, members: Members, size: CallSize, pipeline: PipelineConfig
    ) -> None:
        self.source, self.members, self.size, self.pipeline = source, members, size, pipeline
        self._asked: deque[list[Coming]] = deque()

    def calls(self, work: Iterable[schedule.Work]) -> Iterator[list[Coming]]:
        """Yields the work, by call, with its batches under way."""
        asked = self._asked = deque()
        for call in self._together(work):
            asked.append(self._ask([Coming(item) for item in call]))
            # It stays in there until it has been sent: its batch may have to be made again.
            while len(asked) > self.pipeline.ahead(self.size.now() > 1):
                yield asked[0]
                asked.popleft()
        while asked:
            yield asked[0]
            asked.popleft()

    def ask_again(self) -> None:
        """The batches that were asked for are lost."""
        for call in self._asked:
            self._ask(call)

    def _ask(self, call: list[Coming]) -> list[Coming]:
        batches = self.source.batches([item.work for item in call])
        for item, batch in zip(call, batches, strict=True):
            item.batch = batch
        return call

    def _together(self, work: Iterable[schedule.Work]) -> Iterator[list[schedule.Work]]:
        """Puts work of one kind together, as much as a call takes.

        A full call does not wait for what comes next: markers come by the clock, and one that came
        behind the first batch of a call would leave that alone in it.
        """
        call: list[schedule.Work] = []
        for item in work:
            if call and not _alike(call[-1], item):
                yield call
                call = []
            call.append(item)
            if len(call) >= self._most(item):
                yield call
                call = []
        if call:
            yield call

    def _most(self, item: schedule.Work) -> int:
        """Those that have left score one batch a call."""
        if isinstance(item, schedule.Train):
            return self.size.now()
        if isinstance(item, schedule.Evaluate) and not self.members.parked:
            return self.size.now()
        return 1


def _alike(work: schedule.Work, other: schedule.Work) -> bool:
    """Whether two pieces of work may go into one call."""
    if isinstance(work, schedule.Evaluate) and isinstance(other, schedule.Evaluate):
        return work.split == other.split
    return isinstance(work, schedule.Train) and isinstance(other, schedule.Train)
