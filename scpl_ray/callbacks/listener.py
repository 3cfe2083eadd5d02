"""Listens to a run and tells its callbacks, each in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scpl_ray.callbacks.base import Callback, Metrics, RunStart
from scpl_ray.config import Config
from scpl_ray.engine.base import Done
from scpl_ray.exits import ExitResult
from scpl_ray.report import Plan, Recent, Reporter

_END_S = 60.0


class _Told:
    """One callback, its thread, and what it has still to be told."""

    def __init__(self, name: str, callback: Callback, say: Callable[[str], None]) -> None:
        self.name, self.callback, self.say = name, callback, say
        self.dropped = False
        self._queue: queue.SimpleQueue[tuple[str, tuple] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"callback {name}")
        self._thread.start()

    def tell(self, method: str, *arguments: Any) -> None:
        """Returns at once."""
        if not self.dropped:
            self._queue.put((method, arguments))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            method, arguments = item
            try:
                getattr(self.callback, method)(*arguments)
            except Exception as error:
                # Whatever it is, the training is worth more.
                self.dropped = True
                self.say(
                    f"callback {self.name!r} failed in {method} and is not called again; the "
                    f"training goes on ({type(error).__name__}: {error})"
                )
                return

    def end(self, deadline: float) -> None:
        """Waits until it has been told everything."""
        self._queue.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self.say(f"callback {self.name!r} has not ended within {_END_S:g} s: it is left behind")


class Callbacks(Reporter):
    """The callbacks of a run.

    Args:
        callbacks: with their names, in order.
        config: of the run.
        folder: of the run.
        job: its id.

    Attributes:
        notify: takes a line that the user must not miss.
        say: takes a line for the log.
        in_flight: how much is under way in the pipeline.
        restarts: processes replaced so far.
        first_step: where the run goes on.
        outcome: status and summary, for the end.
    """

    def __init__(
        self, callbacks: Sequence[tuple[str, Callback]], config: Config, folder: Path, job: str
    ) -> None:
        self.config, self.folder, self.job = config, folder, job
        self.notify: Callable[[str], None] = lambda text: None
        self.say: Callable[[str], None] = lambda text: None
        self.in_flight: Callable[[], int] = lambda: 0
        self.restarts: Callable[[], int] = lambda: 0
        self.first_step = 0
        self.outcome: tuple[str, dict[str, Any]] = ("failed", {})
        self._made = list(callbacks)
        self._told: list[_Told] = []
        self._early: list[tuple[str, str]] = []
        self._recent: Recent | None = None
        self._newest: Done | None = None
        self._samples, self._last = 0, 0.0

    def add(self, name: str, callback: Callback) -> None:
        """One more; before the start."""
        self._made.append((name, callback))

    def _tell(self, method: str, *arguments: Any) -> None:
        for told in self._told:
            told.tell(method, *arguments)

    def notice(self, text: str) -> None:
        """An event."""
        self._event("notice", text)

    def info(self, text: str) -> None:
        """An event."""
        self._event("info", text)

    def _event(self, kind: str, text: str) -> None:
        if self._recent is None:
            self._early.append((kind, text))
        self._tell("on_event", kind, text)

    def started(self, plan: Plan) -> None:
        """Tells of the start, and of what came before it."""
        self._recent = Recent(plan, self.first_step)
        tree = self.config.model_dump(mode="json")
        run = RunStart(self.job, plan, self.folder, tree, self.first_step, self.say)
        self._told = [_Told(name, one, self.notify) for name, one in self._made]
        self._tell("on_start", run)
        for kind, text in self._early:
            self._tell("on_event", kind, text)
        self._last = time.monotonic()

    def changed(self, plan: Plan) -> None:
        """An event: the stages of now."""
        assert self._recent is not None, "started() comes first"
        self._recent.plan = plan
        names = "  ".join(f"{s.number} ({', '.join(s.layers)})" for s in _training(plan))
        self._event("stages", f"stages that train: {names}")

    def step(self, epoch: int, done: Done) -> None:
        """Takes the step in; tells figures now and then."""
        if not self._told or self._recent is None:
            return
        self._recent.add(epoch, done)
        self._newest = done
        self._samples += done.stats[0].samples // self._recent.plan.views
        if time.monotonic() - self._last >= self.config.output.report_every_s:
            self._figures()

    def _figures(self) -> None:
        recent, newest = self._recent, self._newest
        self._last = time.monotonic()
        if recent is None or newest is None:
            return
        rows = {s.number: recent.stage(s.number) for s in _training(recent.plan)}
        metrics = Metrics(
            recent.steps,
            recent.epoch,
            self._samples,
            recent.samples_per_second(),
            self.in_flight(),
            recent.plan.training,
            self.restarts(),
            {number: row for number, row in rows.items() if row.steps},
            newest.stats,
            tuple(s.number for s in recent.plan.stages[recent.plan.training :]),
        )
        self._samples, self._newest = 0, None
        self._tell("on_metrics", metrics)

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """Tells the figures of now, and the scores."""
        if self._recent is None:
            return
        self._figures()
        self._tell("on_evaluate", split, epoch, self._recent.steps, list(exits))

    def close(self) -> None:
        """Tells of the end, and waits until the callbacks have heard of it."""
        if not self._told:
            return
        self._figures()
        self._tell("on_end", *self.outcome)
        deadline = time.monotonic() + _END_S
        told, self._told = self._told, []
        for one in told:
            one.end(deadline)


def _training(plan: Plan) -> list[Any]:
    return plan.stages[: plan.training]
