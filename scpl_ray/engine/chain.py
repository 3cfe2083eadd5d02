"""Work on its way through the stages: who was sent what, and what is sent again after a fault.

    send:    batch -> stage 1 -> stage 2 -> ... -> stage S -> those that have left (evaluation)
    resend:  the same, for each stage from the first work that it has not done

References are passed, never bytes. A stage's inputs are kept since its newest copy, so a stage
that comes back is given exactly what its dead process was given, and the others nothing twice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray

from scpl_ray import schedule
from scpl_ray.engine.fence import Ticket
from scpl_ray.engine.member import Given, Member
from scpl_ray.engine.members import Members, Parked
from scpl_ray.engine.source import Source
from scpl_ray.errors import ScplRayError
from scpl_ray.stage_facts import StageSpec


@dataclass
class Flying:
    """Work that has not come back.

    Attributes:
        number: its place in the order of all work.
        work: what it is.
        batch: reference to its batch.
        answers: references by stage number; those that have left answer as one.
        left: the stages that had left when it was sent.
        packet: what the stages that have left were given.
        lost: stages that failed at it and were taken out.
    """

    number: int
    work: schedule.Work
    batch: Any = None
    answers: dict[int, Any] = field(default_factory=dict)
    left: list[Parked] = field(default_factory=list)
    packet: Any = None
    lost: list[tuple[StageSpec, ScplRayError]] = field(default_factory=list)


class Chain:
    """The order of all work, and where each piece of it is.

    Args:
        members: the stages.
        source: the data process.
        keeps: whether inputs are kept for a replay.
        window: pieces of work under way at most.
    """

    def __init__(self, members: Members, source: Source, keeps: bool, window: int) -> None:
        self.members, self.source = members, source
        self.keeps, self.window = keeps, window
        self.number, self.generation = -1, 0
        self.flying: deque[Flying] = deque()
        self._unscored: list[tuple[Flying, Any]] = []
        self.history: deque[tuple[int, schedule.Work]] = deque()

    def crowded(self) -> bool:
        """Whether the window is full; markers do not count."""
        under_way = sum(not isinstance(f.work, schedule.Snapshot) for f in self.flying)
        return under_way >= self.window

    def send(self, work: schedule.Work, batch: Any) -> None:
        """Sends work through all stages."""
        self.number += 1
        flying = Flying(self.number, work, batch, left=self.members.have_left())
        if self.keeps:
            self.history.append((self.number, work))
        stages, packet = self.members.at(self.number), batch
        for member in stages:
            last = member is stages[-1]
            packet, flying.answers[member.spec.number] = self._give(
                member, self.number, work, packet, last and not flying.left, last
            )
        self._score(flying, packet)
        self.flying.append(flying)

    def _score(self, flying: Flying, packet: Any) -> None:
        if isinstance(flying.work, schedule.Evaluate) and flying.left:
            flying.packet = packet
            numbers = tuple(left.spec.number for left in flying.left)
            answer = self.members.parked_actor.evaluate.remote(packet, numbers)
            flying.answers[numbers[0]] = answer

    def _give(
        self,
        member: Member,
        number: int,
        work: schedule.Work,
        packet: Any,
        ends: bool,
        last: bool,
    ) -> tuple[Any, Any]:
        """Gives a stage its next work.

        Args:
            member: the stage.
            number: of the work.
            work: what it is.
            packet: reference to its input.
            ends: nobody reads what it hands on in evaluation.
            last: nobody reads what it hands on in training.

        Returns:
            References to what it hands on (None: nothing) and to its answer.
        """
        actor, ticket = member.actor, Ticket(self.generation, member.sent, number)
        output = state = None
        if isinstance(work, schedule.Train) and last:
            answer = actor.train.remote(ticket, work, packet)
        elif isinstance(work, schedule.Train):
            output = actor.forward.remote(ticket, work, packet)
            answer = actor.update.remote(ticket, work)
        elif isinstance(work, schedule.Evaluate):
            output, answer = actor.evaluate.remote(ticket, packet, ends)
        elif isinstance(work, schedule.Stash):
            answer = actor.stash.remote(ticket, work.epoch)
        elif isinstance(work, schedule.Restore):
            answer = actor.restore.remote(ticket, work.epoch)
        else:
            state, answer = actor.snapshot.remote(ticket)
        member.sent = number
        if self.keeps:
            member.log[number] = Given(number, work, packet, answer, state)
        return output, answer

    def finished(self, flying: Flying) -> None:
        """A piece of work is through all stages: what only it needed is let go."""
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

    def adopt(self, number: int) -> float:
        """The copies of a snapshot are there; returns what the dearest cost, in seconds."""
        costs = [member.adopt(number) for member in self.members.at(number)]
        return max((cost for cost in costs if cost is not None), default=0.0)

    def log_mib(self, each: float, prefetch: int) -> float:
        """Inputs that are kept by the time that a marker of now takes effect, in MiB.

        Args:
            each: of all stages, at one batch.
            prefetch: batches that go before the marker.
        """
        coming = each * (2 * self.window + prefetch)
        return coming + sum(member.log_mib for member in self.members.all())

    def forget_before(self, number: int) -> None:
        """No stage will ever go back to before this work."""
        while self.history and self.history[0][0] <= number:
            self.history.popleft()

    def resend(self, done: dict[int, int], anew: bool, limit_s: float) -> bool:
        """Sends to each stage, in order, what it has not done.

        Args:
            done: the work that each stage has done last, by `id` of the member.
            anew: batches are made again: the data process, or the copies of its batches, are gone.
            limit_s: seconds to wait for one answer.

        Returns:
            False if a stage failed meanwhile, and all is to be looked at again. What those that
            have left are to score waits for `score_again`.
        """
        members = self.members.all()
        again = {id(m): m.go_on_after(done[id(m)]) for m in members}
        self._unscored = []
        ok = self._resend_all(done, anew, limit_s, again)
        if not ok:
            for member in members:
                member.keep_again(again[id(member)])
        return ok

    def _resend_all(
        self,
        done: dict[int, int],
        anew: bool,
        limit_s: float,
        again: dict[int, dict[int, Given]],
    ) -> bool:
        members = self.members.all()
        flying = {f.number: f for f in self.flying}
        pending: deque[Any] = deque()
        marks: deque[int] = deque()
        start = min(done.values(), default=self.number)
        for number, work in [h for h in self.history if h[0] > start]:
            needing = [m for m in members if m.gets(number) and number > done[id(m)]]
            own = flying.get(number)
            if not needing or (isinstance(work, schedule.Evaluate) and own is None):
                continue
            answers = self._resend_one(number, work, needing, again, own, anew)
            if isinstance(work, schedule.Snapshot) and own is None:
                marks.append(number)
            if own is None:
                pending.append(answers)  # what flies is judged when its turn comes
            while len(pending) >= self.window:
                if not _came(pending.popleft(), limit_s):
                    return False
            while marks and marks[0] <= number - self.window:
                self.adopt(marks.popleft())
        return True

    def _resend_one(
        self,
        number: int,
        work: schedule.Work,
        needing: list[Member],
        again: dict[int, dict[int, Given]],
        own: Flying | None,
        anew: bool,
    ) -> list[Any]:
        stages, packet, answers = self.members.at(number), None, []
        left = own.left if own is not None else []
        for member in stages:
            last = member is stages[-1]
            if member not in needing:
                packet = None
                continue
            if packet is None:
                kept = again[id(member)].get(number)
                if member is stages[0] and (anew or kept is None):
                    packet = self.source.batch(work)
                    if own is not None:
                        own.batch = packet
                elif kept is not None:
                    packet = kept.given
            # Nobody downstream needs the output of a batch that all of them have had.
            alone = not any(m in needing for m in stages[stages.index(member) + 1 :])
            packet, answer = self._give(
                member, number, work, packet, last and not left, last or alone
            )
            answers.append(answer)
            if own is not None:
                own.answers[member.spec.number] = answer
            if last and own is not None:
                self._unscored.append((own, packet))
        return answers

    def score_again(self) -> None:
        """Has those that have left score what they have not, once they are all there."""
        sent_again = {own.number for own, _ in self._unscored}
        for own in self.flying:
            if own.left and own.packet is not None and own.number not in sent_again:
                answer = own.answers[own.left[0].spec.number]
                if ray.wait([answer], timeout=0)[0] and not _came([answer], 1.0):
                    self._unscored.append((own, own.packet))
        for own, packet in self._unscored:
            self._score(own, packet)
        self._unscored = []


def _came(answers: list[Any], limit_s: float) -> bool:
    """Waits for answers; False if one failed or did not come."""
    try:
        ray.get(answers, timeout=limit_s)
    except Exception:
        return False
    return True
