"""Training end to end through actors: forward through all stages, then the gradient back.

    batch(t) -> stage 1 forward(t) -> ... -> stage S learn_last(t)
                stage 1 learn(t)   <- ... <-  gradient

An actor does what it is asked in order, so stage k waits for the gradient of step t before it takes
step t+1: exactly what one process does, and the waiting that local objectives do away with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch

from scpl_ray.engine.actors import StageActor
from scpl_ray.engine.calls import Piece
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.fence import Ticket
from scpl_ray.engine.given import Given, one_of
from scpl_ray.engine.transport import Packet
from scpl_ray.errors import ScplRayError
from scpl_ray.schedule import Train
from scpl_ray.stage_facts import StageStats


class EndToEndActor(StageActor):
    """A stage that is given the gradient of its output and gives back that of its input."""

    @ray.method(num_returns=2)
    def learn_last(
        self, ticket: Ticket, work: Train, given: Given, index: int | None = None
    ) -> tuple[Packet | None, StageStats]:
        """Trains the last stage: (gradient of its input, what it reports)."""
        self._forward(ticket, work, one_of(given, index), last=True)
        return self._learn(ticket, work, None)

    @ray.method(num_returns=2)
    def learn(
        self, ticket: Ticket, work: Train, gradient: Packet
    ) -> tuple[Packet | None, StageStats]:
        """Trains a stage that others are behind; `gradient` is that of its output."""
        return self._learn(ticket, work, gradient)

    def _learn(
        self, ticket: Ticket, work: Train, given: Packet | None
    ) -> tuple[Packet | None, StageStats]:
        self._before_update(ticket)
        try:
            gradient = None if given is None else self.transport.unpack(given)[0]
            stats = self.stage.update(work.step, gradient)
            back = self.stage.input_gradient
            nobody = torch.zeros(0, dtype=torch.long)
            packet = None if back is None else self.transport.pack(back, nobody)
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(self.spec.number, work, None, error) from None
        self.fence.passed(ticket)
        return packet, self._told(stats)


def ask_there_and_back(
    stages: Sequence[tuple[Any, Ticket]], work: Train, given: Piece
) -> list[Piece]:
    """Asks all stages, in order, to train on one batch; does not wait.

    Args:
        stages: each one's process, and leave to do it.
        work: which step.
        given: the batch.

    Returns:
        What each stage says once it is done.
    """
    packet, index = given.ref, given.index
    for actor, ticket in stages[:-1]:
        packet, index = actor.forward.remote(ticket, work, packet, index), None
    actor, ticket = stages[-1]
    gradient, said = actor.learn_last.remote(ticket, work, packet, index)
    answers = [said]
    for actor, ticket in reversed(stages[:-1]):
        gradient, said = actor.learn.remote(ticket, work, gradient)
        answers.insert(0, said)
    return [Piece(answer) for answer in answers]
