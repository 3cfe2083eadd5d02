"""Who may do what next: a stage takes each piece of work once and in order, or not at all. No Ray.

Every call carries a ticket: the generation of the pipeline, the number of the work, and the number
of the work that must have been done just before. After a fault the generation goes up, so a call
from before, or of a stage that was thought dead and is only slow, finds no open door.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Ticket(NamedTuple):
    """Leave to do one piece of work.

    Attributes:
        generation: of the pipeline; each recovery begins a new one.
        after: number of the work that this stage must have done last.
        number: of this work.
    """

    generation: int
    after: int
    number: int


class OutOfTurn(Exception):
    """A call that is not the next: what came before it failed, or a recovery has overtaken it."""


@dataclass
class Fence:
    """One stage's place in the order of all work.

    Attributes:
        generation: calls of another one are refused.
        last: number of the work done last.
        begun: number of the training batch whose forward is through and whose update is not.
    """

    generation: int = 0
    last: int = -1
    begun: int | None = None

    def check(self, ticket: Ticket) -> None:
        """Refuses what is not next.

        Raises:
            OutOfTurn: another generation, or other work comes first.
        """
        if ticket.generation != self.generation or ticket.after != self.last:
            raise OutOfTurn(f"{ticket} came to a stage at {self}")

    def check_begun(self, ticket: Ticket) -> None:
        """Refuses an update without its forward.

        Raises:
            OutOfTurn: as `check`, or the forward of this work did not run.
        """
        self.check(ticket)
        if self.begun != ticket.number:
            raise OutOfTurn(f"update of {ticket} without its forward")

    def passed(self, ticket: Ticket) -> None:
        """The work is done."""
        self.last, self.begun = ticket.number, None

    def place(self, generation: int, last: int) -> None:
        """A new stage, or one that went back, stands here."""
        self.generation, self.last, self.begun = generation, last, None
