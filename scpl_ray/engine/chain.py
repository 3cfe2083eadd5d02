"""Work on its way through the stages: who was sent what, and what is kept to be sent again.

    batch -> stage 1 -> stage 2 -> ... -> stage S -> those that have left (evaluation)

References are passed, never bytes. A stage's inputs are kept since its newest copy, so a stage
that comes back is given exactly what its dead process was given, and the others nothing twice
(`resend`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine.call_size import CallSize
from scpl_ray.engine.calls import Asked, Piece, ask
from scpl_ray.engine.end_to_end import ask_there_and_back
from scpl_ray.engine.fence import Ticket
from scpl_ray.engine.member import Given, Member
from scpl_ray.engine.members import Members, Parked
from scpl_ray.engine.replicas import ask_replicas
from scpl_ray.engine.source import Source
from scpl_ray.errors import ScplRayError
from scpl_ray.objective import is_end_to_end
from scpl_ray.stage_facts import StageSpec


@dataclass
class Flying:
    """Work that has not come back.

    Attributes:
        number: its place in the order of all work.
        work: what it is.
        batch: its batch.
        ends: whether it is the last of its call.
        answers: by stage number; those that have left answer as one.
        left: the stages that had left when it was sent.
        packet: what the stages that have left were given.
        lost: stages that failed at it and were taken out.
    """

    number: int
    work: schedule.Work
    batch: Piece | None = None
    ends: bool = True
    answers: dict[int, Piece] = field(default_factory=dict)
    left: list[Parked] = field(default_factory=list)
    packet: Piece | None = None
    lost: list[tuple[StageSpec, ScplRayError]] = field(default_factory=list)


class Chain:
    """The order of all work, and where each piece of it is.

    Args:
        members: the stages.
        source: the data process.
        config: the window, and whether inputs are kept for a replay.
        size: batches of a call.
    """

    def __init__(self, members: Members, source: Source, config: Config, size: CallSize) -> None:
        self._size = size
        self.members, self.source = members, source
        self.end_to_end = is_end_to_end(config.method)
        self.keeps, self._pipeline = config.fault_tolerance.enabled, config.pipeline
        self.number, self.generation, self.steps_per_epoch = -1, 0, 1
        self.flying: deque[Flying] = deque()
        self._calls = 0
        self.history: deque[tuple[int, schedule.Work]] = deque()

    @property
    def window(self) -> int:
        """Calls under way at most."""
        size = self._size
        return self._pipeline.window(self._processes(), size.now() > 1, size.at_once)

    def _processes(self) -> int:
        return sum(len(member.actors) for member in self.members.live)

    def crowded(self) -> bool:
        """Whether the window is full; markers do not count."""
        return self._calls >= self.window

    def takes_many(self, work: schedule.Work) -> bool:
        """Whether work of this kind may go many to a call, with the stages of now.

        A stage on probation may yet be taken out at any of them; those that have left score one
        batch a call.
        """
        if isinstance(work, schedule.Evaluate) and self.members.parked:
            return False
        return not any(member.on_probation for member in self.members.live)

    def send(self, works: Sequence[schedule.Work], batches: Sequence[Piece | None]) -> None:
        """Sends the work of one call through all stages."""
        first, left = self.number + 1, self.members.have_left()
        self.number += len(works)
        calls = [
            Flying(first + i, work, batch, left=left)
            for i, (work, batch) in enumerate(zip(works, batches, strict=True))
        ]
        for flying in calls[:-1]:
            flying.ends = False
        if self.keeps:
            self.history.extend((flying.number, flying.work) for flying in calls)
        if self.end_to_end and isinstance(works[0], schedule.Train):
            self.there_and_back(calls[0], self.members.at(first))
        else:
            self._through(calls, works, self.members.at(first))
        self.flying.extend(calls)
        self._calls += not isinstance(works[0], schedule.Snapshot)

    def _through(
        self, calls: list[Flying], works: Sequence[schedule.Work], stages: list[Member]
    ) -> None:
        packet, left = calls[0].batch, calls[0].left
        asked: list[Asked] = []
        for member in stages:
            last = member is stages[-1]
            asked = self.give(member, calls[0].number, works, packet, last and not left, last)
            packet = asked[0].output
            for flying, one in zip(calls, asked, strict=True):
                flying.answers[member.spec.number] = one.answer
        for flying, one in zip(calls, asked, strict=True):
            self.score(flying, one.output)

    def score(self, flying: Flying, packet: Piece | None) -> None:
        """Has the stages that have left score a batch of evaluation."""
        if isinstance(flying.work, schedule.Evaluate) and flying.left and packet is not None:
            flying.packet = packet
            numbers = tuple(left.spec.number for left in flying.left)
            answer = self.members.parked_actor.evaluate.remote(packet.ref, numbers)
            flying.answers[numbers[0]] = Piece(answer)

    def there_and_back(self, flying: Flying, stages: list[Member]) -> None:
        """Has all stages train end to end on one batch."""
        number, work, batch = flying.number, flying.work, flying.batch
        assert isinstance(work, schedule.Train) and batch is not None
        leaves = [(m.actor, Ticket(self.generation, m.sent, number)) for m in stages]
        answers = ask_there_and_back(leaves, work, batch)
        for member, answer in zip(stages, answers, strict=True):
            member.sent = number
            flying.answers[member.spec.number] = answer
            if self.keeps:
                # They go back together, so the batch alone is given again.
                given = batch if member is stages[0] else None
                member.log[number] = Given(number, work, given, answer)

    def give(
        self,
        member: Member,
        number: int,
        works: Sequence[schedule.Work],
        packet: Piece | None,
        ends: bool,
        last: bool,
    ) -> list[Asked]:
        """Gives a stage its next work, from `number` on; for the rest see `ask`."""
        if member.replicas:
            ticket = Ticket(self.generation, member.settled, number)
            per_epoch = self.steps_per_epoch
            asked = [ask_replicas(member, ticket, works[0], packet, ends, last, per_epoch)]
        else:
            ticket = Ticket(self.generation, member.sent, number)
            asked = ask(member.actor, ticket, works, packet, ends, last)
        member.sent = number + len(works) - 1
        if self.keeps:
            for i, (work, one) in enumerate(zip(works, asked, strict=True)):
                given = packet if i == 0 or packet is None else packet.after(i)
                member.log[number + i] = Given(number + i, work, given, one.answer, one.state)
        return asked

    def finished(self, flying: Flying) -> None:
        """A piece of work is through all stages: what only it needed is let go."""
        self._calls -= flying.ends and not isinstance(flying.work, schedule.Snapshot)
        if isinstance(flying.work, schedule.Evaluate):
            for member in self.members.all():
                member.forget(flying.number)

    def lose(self, member: Member, error: ScplRayError) -> None:
        """Takes out a stage that joined lately and failed; the others never depended on it."""
        number = member.spec.number
        self.flying[0].lost += [(spec, error) for spec in self.members.lose(number)]
        for other in self.flying:
            other.answers = {n: ref for n, ref in other.answers.items() if n < number}
            other.left = []

    def adopt(self, number: int) -> None:
        """The copies of a snapshot are there."""
        for member in self.members.at(number):
            member.adopt(number)

    def log_mib(self, each: float) -> float:
        """Inputs that are kept by the time that a marker of now takes effect, in MiB.

        Args:
            each: of all stages, in one call.
        """
        size = self._size
        coming = self._pipeline.coming(self._processes(), size.now() > 1, size.at_once)
        return each * coming + sum(member.log_mib for member in self.members.all())

    def forget_before(self, number: int) -> None:
        """No stage will ever go back to before this work."""
        while self.history and self.history[0][0] <= number:
            self.history.popleft()
