"""The actor that holds one replica of a stage: what `StageActor` does, less learning by itself.

All replicas of a stage stand at the same weights. Of a round each is given one batch, and hands
over its gradients; then all are given the gradients of all and take the same step, each for
itself. So no replica is above the others, and no group has to be formed that could not be
re-formed: the first one's snapshot is the stage's. See `rounds` for what it means for learning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import ray

from scpl_ray.engine.actors import StageActor
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.fence import Ticket
from scpl_ray.engine.given import Given, one_of
from scpl_ray.engine.transport import Packet, named_array, to_torch
from scpl_ray.errors import ScplRayError
from scpl_ray.schedule import Train
from scpl_ray.share import Share
from scpl_ray.stage_facts import StageStats


@dataclass(frozen=True)
class ShareArrays:
    """A `Share` as arrays of the host, with torch's names of their types."""

    gradients: list[tuple[np.ndarray, str] | None]
    buffers: list[tuple[np.ndarray, str]]


class ReplicaActor(StageActor):
    """One process of a stage that has several."""

    def forward_one(
        self, ticket: Ticket, work: Train, given: Given, index: int | None, last: bool
    ) -> Packet | None:
        """Computes the output of one batch of the round; the last stage hands nothing on."""
        return self._forward(ticket, work, one_of(given, index), last)

    @ray.method(num_returns=2)
    def share(
        self, ticket: Ticket, work: Train, replica: int
    ) -> tuple[ShareArrays | None, StageStats]:
        """Hands over the gradients of the batch of the last forward."""
        self._before_update(ticket)
        try:
            stats, share = self.stage.share(work.step)
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(self.spec.number, work, None, error) from None
        self.fence.begun = None
        arrays = None
        if share is not None:
            arrays = ShareArrays(
                [None if g is None else named_array(g) for g in share.gradients],
                [named_array(b) for b in share.buffers],
            )
        return arrays, replace(self._told(stats), replica=replica)

    def learn(self, ticket: Ticket, *shares: ShareArrays | None) -> None:
        """Takes the step of a round, of which these are all shares."""
        self.fence.check(ticket)
        self.stage.learn([None if s is None else _tensors(s) for s in shares])
        self.fence.passed(ticket)

    def report(self, stats: StageStats, *learned: None) -> StageStats:
        """What the round's last batch gave, once all replicas have learned."""
        return stats

    def pass_over(self, ticket: Ticket) -> None:
        """Work that another replica does for all."""
        self.fence.check(ticket)
        self.fence.passed(ticket)


def _tensors(arrays: ShareArrays) -> Share:
    gradients = [None if a is None else to_torch(*a) for a in arrays.gradients]
    return Share(gradients, [to_torch(*b) for b in arrays.buffers])
