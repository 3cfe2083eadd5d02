"""Work that is sent again after a fault: to each stage what it has not done, to none twice."""

from __future__ import annotations

from collections import deque
from typing import Any

import ray

from scpl_ray import schedule
from scpl_ray.engine.calls import Piece
from scpl_ray.engine.chain import Chain, Flying
from scpl_ray.engine.member import Given, Member


class Resend:
    """Sends a chain's work again.

    Args:
        chain: where the work is, and what is kept of it.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._unscored: list[tuple[Flying, Piece]] = []

    def send(self, done: dict[int, int], anew: bool, limit_s: float) -> bool:
        """Sends to each stage, in order, what it has not done.

        Args:
            done: the work that each stage has done last, by `id` of the member.
            anew: batches are made again: the data process, or the copies of its batches, are gone.
            limit_s: seconds to wait for one answer.

        Returns:
            False if a stage failed meanwhile, and all is to be looked at again. What those that
            have left are to score waits for `score_again`.
        """
        members = self.chain.members.all()
        again = {id(m): m.go_on_after(done[id(m)]) for m in members}
        self._unscored = []
        ok = self._all(done, anew, limit_s, again)
        if not ok:
            for member in members:
                member.keep_again(again[id(member)])
        return ok

    def _all(
        self,
        done: dict[int, int],
        anew: bool,
        limit_s: float,
        again: dict[int, dict[int, Given]],
    ) -> bool:
        members = self.chain.members.all()
        flying = {f.number: f for f in self.chain.flying}
        pending: deque[list[Any]] = deque()
        marks: deque[int] = deque()
        start = min(done.values(), default=self.chain.number)
        for number, work in [h for h in self.chain.history if h[0] > start]:
            needing = [m for m in members if m.gets(number) and number > done[id(m)]]
            own = flying.get(number)
            if not needing or (isinstance(work, schedule.Evaluate) and own is None):
                continue
            answers = self._one(number, work, needing, again, own, anew)
            if isinstance(work, schedule.Snapshot) and own is None:
                marks.append(number)
            if own is None:
                pending.append(answers)  # what flies is judged when its turn comes
            while len(pending) >= self.chain.window:
                if not _came(pending.popleft(), limit_s):
                    return False
            while marks and marks[0] <= number - self.chain.window:
                self.chain.adopt(marks.popleft())
        return True

    def _one(
        self,
        number: int,
        work: schedule.Work,
        needing: list[Member],
        again: dict[int, dict[int, Given]],
        own: Flying | None,
        anew: bool,
    ) -> list[Any]:
        stages, answers = self.chain.members.at(number), []
        if self.chain.end_to_end and isinstance(work, schedule.Train):
            kept = None if anew else again[id(stages[0])].get(number)
            return self._there_and_back(own or Flying(number, work), stages, kept)
        packet: Piece | None = None
        left = own.left if own is not None else []
        for member in stages:
            last = member is stages[-1]
            if member not in needing:
                packet = None
                continue
            if packet is None:
                kept = again[id(member)].get(number)
                if member is stages[0] and (anew or kept is None):
                    (packet,) = self.chain.source.batches([work])
                    if own is not None:
                        own.batch = packet
                elif kept is not None:
                    packet = kept.given
            # Nobody downstream needs the output of a batch that all of them have had.
            alone = not any(m in needing for m in stages[stages.index(member) + 1 :])
            (asked,) = self.chain.give(
                member, number, [work], packet, last and not left, last or alone
            )
            packet = asked.output
            answers.append(asked.answer.ref)
            if own is not None:
                own.answers[member.spec.number] = asked.answer
            if last and own is not None and packet is not None:
                self._unscored.append((own, packet))
        return answers

    def _there_and_back(self, own: Flying, stages: list[Member], kept: Given | None) -> list[Any]:
        """End to end: all stages at once, for they have gone back together."""
        own.batch = None if kept is None else kept.given
        if own.batch is None:
            (own.batch,) = self.chain.source.batches([own.work])
        self.chain.there_and_back(own, stages)
        return [answer.ref for answer in own.answers.values()]

    def score_again(self) -> None:
        """Has those that have left score what they have not, once they are all there."""
        sent_again = {own.number for own, _ in self._unscored}
        for own in self.chain.flying:
            if own.left and own.packet is not None and own.number not in sent_again:
                answer = own.answers[own.left[0].spec.number].ref
                if ray.wait([answer], timeout=0)[0] and not _came([answer], 1.0):
                    self._unscored.append((own, own.packet))
        for own, packet in self._unscored:
            self.chain.score(own, packet)
        self._unscored = []


def _came(answers: list[Any], limit_s: float) -> bool:
    """Waits for answers; False if one failed or did not come."""
    try:
        ray.get(answers, timeout=limit_s)
    except Exception:
        return False
    return True
