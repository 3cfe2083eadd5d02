"""The wishes of a job: which are known, which wait, and which are refused or taken back.

    plan, changes before a crash, command, policy -> checked -> the queue, in the order of arrival

Does nothing about them; `control` does, and holds the lock.
"""

from __future__ import annotations

from typing import Any

from scpl_ray.config.schema import Config
from scpl_ray.elastic.changes import Changes
from scpl_ray.elastic.plan import planned_changes
from scpl_ray.elastic.request import Request, noted_request
from scpl_ray.elastic.starter import Starter
from scpl_ray.objective import why_fixed

_KEPT_REQUESTS = 100


class Wishes:
    """Keeps requests.

    Args:
        config: the run's config.
        changes: hears of each request that is withdrawn.

    Attributes:
        queue: requests of which something may still come, the oldest first.
    """

    def __init__(self, config: Config, changes: Changes) -> None:
        self._config, self._changes = config, changes
        self.queue: list[Request] = []
        self._known: dict[str, Request] = {}
        self._starter: Starter | None = None

    def begin(
        self,
        starter: Starter,
        steps_per_epoch: int,
        step: int,
        noted: list[dict[str, Any]],
    ) -> None:
        """Training begins: the plan goes before the commands that came early.

        Args:
            starter: starts stages, and knows which can be.
            steps_per_epoch: training steps of an epoch.
            step: the first one; what was planned before it has been.
            noted: changes that were made before a crash, to be made again.
        """
        self._starter, self._per_epoch = starter, steps_per_epoch
        elastic = self._config.elastic
        early, self.queue = self.queue, []
        for n, change in enumerate(planned_changes(elastic, steps_per_epoch), 1):
            if change.step < step:
                continue
            reason = f"elastic.{change.kind}_at"
            planned = Request(f"plan-{n}", change.kind, "plan", reason, exact=True)
            planned.not_before, planned.timeout_s = change.step, elastic.timeout_s
            self.add(planned)
        for command in noted:
            if command["by"] != "plan":
                self.add(noted_request(command))
        for request in early:
            request.text = ""
            self.queue.append(request)
            self.check(request, step)
            self.drop_ended()

    def knows(self, request: Request) -> bool:
        """Whether a request of this id has arrived."""
        return request.id in self._known

    def views(self) -> list[dict[str, Any]]:
        """All requests that are known, the oldest first."""
        return [request.view() for request in self._known.values()]

    def add(self, request: Request) -> None:
        """Puts a request behind the others."""
        self._known[request.id] = request
        while len(self._known) > _KEPT_REQUESTS:
            self._known.pop(next(iter(self._known)))
        self.queue.append(request)

    def check(self, request: Request, step: int) -> None:
        """Refuses what cannot be done; a shrink takes back a growth that has not joined.

        Args:
            request: in the queue.
            step: at which the job is.
        """
        assert self._starter is not None
        total = self._per_epoch * self._config.train.epochs
        if request.at_epoch is not None:
            request.not_before = request.at_epoch * self._per_epoch
        if request.not_before and not step < request.not_before < total:
            request.move(
                "refused",
                f"step {request.not_before} is not ahead: the job is at step {step} of "
                f"{total} ({self._per_epoch} an epoch)",
            )
        elif why := why_fixed(self._config.method):
            request.move("refused", why)
        elif request.kind == "grow":
            if why := self._starter.refusal(request):
                request.move("refused", why)
        else:
            self._check_shrink(request, step)

    def _check_shrink(self, request: Request, step: int) -> None:
        assert self._starter is not None
        others = [r for r in self.queue if not r.exact and not r.ended and r is not request]
        growths = [r for r in others if r.kind == "grow"]
        if growths and not request.not_before:
            self._withdraw(growths[-1], "taken back by a shrink")
            request.move("done", "took back a growth that had not joined yet")
            request.step = step
        elif request.not_before:
            return  # what there is then is seen then
        elif len(self._starter.engine.specs) - (len(others) - len(growths)) <= 1:
            request.move("refused", "one stage is left; a job needs it (stop ends the job)")

    def _withdraw(self, request: Request, why: str) -> None:
        if self._starter is not None and self._starter.is_for(request):
            self._starter.cancel("withdrawn", why)
        request.move("withdrawn", why)
        self._changes.gave_up(request)

    def withdraw_all(self, why: str) -> None:
        """Nothing more will come of any."""
        for request in self.queue:
            if not request.ended:
                self._withdraw(request, why)
        self.queue = []

    def drop_ended(self) -> None:
        """Takes out of the queue what needs nothing more."""
        self.queue = [r for r in self.queue if not r.ended and r.state != "joined"]
