"""What the stages answered, and whether a failure is theirs, the data's, or a death."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine.base import Parts, StageState
from scpl_ray.engine.chain import Chain, Flying
from scpl_ray.engine.faults import Broken
from scpl_ray.engine.live_state import LiveState
from scpl_ray.engine.member import Member
from scpl_ray.engine.members import Members
from scpl_ray.engine.wording import data_is_late, late, own_cause, worded
from scpl_ray.errors import PipelineTimeoutError, StageMemoryError


class Collector:
    """Gathers answers.

    Args:
        config: the run's config.
        members: the stages.
        chain: the work under way.

    Attributes:
        shapes: of each stage's last input, for messages.
    """

    def __init__(self, config: Config, members: Members, chain: Chain) -> None:
        self.config, self.members, self.chain = config, members, chain
        self.shapes: dict[int, str] = {}
        # The last list of each stage: its entries are asked for one after another.
        self._lists: dict[int, tuple[Any, list[Any]]] = {}

    def collect(self, flying: Flying) -> dict[int, Any]:
        """What each stage answered.

        Raises:
            Broken: something died, or answers are lost.
            ScplRayError: a stage that does not take part on probation failed.
        """
        limit = self.config.pipeline.step_timeout_s
        batch = None if flying.batch is None else flying.batch.ref
        known = {
            n: v
            for n, (ref, v) in self._lists.items()
            if n in flying.answers and flying.answers[n].ref == ref
        }
        refs = [answer.ref for n, answer in flying.answers.items() if n not in known]
        arrived = set(ray.wait(refs, num_returns=len(refs), timeout=limit)[0])
        results = {}
        for number, answer in list(flying.answers.items()):
            if number in known:
                results[number] = answer.of(known[number])
                continue
            try:
                if answer.ref not in arrived:
                    raise self._late(flying, batch, number, limit)
                said = ray.get(answer.ref)
                if answer.index is not None:
                    self._lists[number] = (answer.ref, said)
                results[number] = answer.of(said)
            except (Broken, PipelineTimeoutError):
                raise
            except Exception as error:
                failure = own_cause(error, batch)
                if failure is None:
                    raise Broken(str(worded(error, f"stage {number}"))) from None
                member = self._member(number)
                if isinstance(failure, StageMemoryError) and member is not None:
                    raise Broken(str(failure), (member,)) from None
                if member is None or not member.on_probation:
                    raise failure from None
                self.chain.lose(member, failure)
                break
        return results

    def _late(self, flying: Flying, batch: Any, number: int, limit: float) -> Exception:
        """A stage that does not answer is taken for dead; data that does not come is told."""
        error = late(flying.work, batch, number, self.shapes.get(number), limit)
        member = self._member(number)
        if data_is_late(batch) or member is None or not self.config.fault_tolerance.enabled:
            return error
        return Broken(str(error), (member,))

    def _member(self, number: int) -> Member | None:
        return next((m for m in self.members.live if m.spec.number == number), None)

    def parts(
        self, flying: Flying, work: schedule.Snapshot, written: Callable[[int, int], None]
    ) -> Parts:
        """The copies of a snapshot that has passed all stages, before they are adopted."""
        stages = self.members.at(flying.number)
        refs = [m.log[flying.number].state for m in stages if flying.number in m.log]
        refs += [left.state for left in flying.left]

        def fetch() -> Iterator[StageState]:
            while refs:
                state = ray.get(refs.pop(0))
                yield state.serialised() if isinstance(state, LiveState) else state

        specs = [m.spec for m in stages]
        told = partial(written, work.step, flying.number)
        return Parts(work.step, specs, [left.spec for left in flying.left], fetch, told)
