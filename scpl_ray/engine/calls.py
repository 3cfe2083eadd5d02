"""What a stage is asked to do: one call for one piece of work, or one for many.

A stage whose step takes a few milliseconds would spend more on the calls than on the work. Many
batches then travel as one list and are done in one call, one after the other, in the same order
and with the same arithmetic; what comes out travels on as one list. A piece of such a list stands
for itself everywhere else: it can be replayed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scpl_ray import schedule
from scpl_ray.engine.fence import Ticket


@dataclass(frozen=True)
class Piece:
    """A reference to one object, or to one entry of a list that travels as one.

    Attributes:
        ref: the reference.
        index: of the entry; None: the object itself.
    """

    ref: Any
    index: int | None = None

    def after(self, count: int) -> Piece:
        """The entry so many places behind, of the same list."""
        assert self.index is not None
        return Piece(self.ref, self.index + count)

    def of(self, value: Any) -> Any:
        """The piece itself, of the object that the reference stands for."""
        return value if self.index is None else value[self.index]


@dataclass(frozen=True)
class Asked:
    """What a stage gives back for one piece of work.

    Attributes:
        output: what it hands on; None: nothing.
        answer: what it says once it is done.
        state: its copy, of a snapshot.
    """

    output: Piece | None
    answer: Piece
    state: Any = None


def ask(
    actor: Any,
    ticket: Ticket,
    works: Sequence[schedule.Work],
    given: Piece | None,
    ends: bool,
    last: bool,
) -> list[Asked]:
    """Gives a stage its next work; does not wait.

    Args:
        actor: the stage's process.
        ticket: leave to do the first of it.
        works: what to do; if more than one, all training or all evaluation, and `given` is the
            first of as many consecutive entries of one list.
        given: the input; None for work without.
        ends: nobody reads what it hands on in evaluation.
        last: nobody reads what it hands on in training.
    """
    work, ref, index = works[0], None, None
    if given is not None:
        ref, index = given.ref, given.index
    if len(works) > 1:
        end = ends if isinstance(work, schedule.Evaluate) else last
        outputs, answers = actor.many.remote(ticket, tuple(works), ref, index, end)
        return [
            Asked(None if end else Piece(outputs, i), Piece(answers, i)) for i in range(len(works))
        ]
    output = state = None
    if isinstance(work, schedule.Train) and last:
        answer = actor.train.remote(ticket, work, ref, index)
    elif isinstance(work, schedule.Train):
        output = Piece(actor.forward.remote(ticket, work, ref, index))
        answer = actor.update.remote(ticket, work)
    elif isinstance(work, schedule.Evaluate):
        handed, answer = actor.evaluate.remote(ticket, ref, ends, index)
        output = Piece(handed)
    elif isinstance(work, schedule.Stash):
        answer = actor.stash.remote(ticket, work.epoch)
    elif isinstance(work, schedule.Restore):
        answer = actor.restore.remote(ticket, work.epoch)
    else:
        state, answer = actor.snapshot.remote(ticket)
    return [Asked(output, Piece(answer), state)]
