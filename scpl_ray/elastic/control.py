"""Who joins and who leaves at each batch boundary: plan, policy and commands in one place.

    command, plan, policy -> Request -> candidate starts beside the pipeline -> boundary -> joined

One stage starts at a time; later wishes queue. `boundary` is called by the engine's loop before a
piece of work is sent, `handle` and `advance` by the thread that carries commands: a lock keeps
them apart. Knows neither Ray nor losses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.elastic.changes import Changes
from scpl_ray.elastic.plan import decide, is_time, planned_changes
from scpl_ray.elastic.request import Request
from scpl_ray.engine.base import Ask, Candidate, Done, Engine, Go, StageState
from scpl_ray.errors import ConfigError, ScplRayError
from scpl_ray.evaluate import ExitResult
from scpl_ray.models.growth import extend
from scpl_ray.models.registry import build_model
from scpl_ray.stage_module import StageSpec

_KEPT_REQUESTS = 100


@dataclass
class _Active:
    request: Request
    candidate: Candidate
    spec: StageSpec
    config: Config


class Control:
    """Decides membership.

    Args:
        config: the run's config.
        say: takes one line for the log.
        on_change: called after the stages have changed.
        on_left: takes the state of a stage that has left.
    """

    def __init__(
        self,
        config: Config,
        say: Callable[[str], None],
        on_change: Callable[[], None],
        on_left: Callable[[StageSpec, StageState], None],
    ) -> None:
        self.config, self._say = config, say
        self._on_change, self._on_left = on_change, on_left
        self._lock = threading.RLock()
        self._queue: list[Request] = []
        self._requests: dict[str, Request] = {}
        self._active: _Active | None = None
        self._engine: Engine | None = None
        self._ended = False
        self.stopping = False
        self.step, self.epoch = 0, 0
        self.changes = Changes()
        self._accuracies: list[float] = []
        self._pace: tuple[float, int, float] = (0.0, 0, 0.0)

    def begin(
        self,
        engine: Engine,
        info: DataInfo,
        steps_per_epoch: int,
        waiting: list[StageSpec],
    ) -> None:
        """Training begins.

        Args:
            engine: with the first stages started.
            info: what layers must fit.
            steps_per_epoch: training steps of an epoch.
            waiting: stages of the config's cut that shall join later.
        """
        with self._lock:
            self._engine, self._info, self._per_epoch = engine, info, steps_per_epoch
            self._waiting = list(waiting)
            for n, change in enumerate(planned_changes(self.config.elastic, steps_per_epoch), 1):
                self._add(
                    Request(
                        f"plan-{n}",
                        change.kind,
                        "plan",
                        f"elastic.{change.kind}_at",
                        not_before=change.step,
                        exact=True,
                        timeout_s=self.config.elastic.timeout_s,
                    )
                )
            early = [r for r in self._queue if r.by == "command"]
            for request in early:
                self._check(request)

    # What others ask for.

    def handle(self, request: Request) -> None:
        """Takes in a command; its outcome is read from `views`."""
        with self._lock:
            if request.id in self._requests:
                return  # sent again: the sender did not hear that it had arrived
            self._add(request)
            if self._ended or self.stopping:
                request.move("refused", "the training of this job has ended, or ends now")
            elif self._engine is None:
                request.text = "training has not begun"
            else:
                self._check(request)
                self._advance()
            self._drop_ended()

    def stop(self) -> None:
        """Ends training at the next boundary."""
        with self._lock:
            self.stopping = True
            self._withdraw_all("the job stops")

    def _add(self, request: Request) -> None:
        self._requests[request.id] = request
        while len(self._requests) > _KEPT_REQUESTS:
            self._requests.pop(next(iter(self._requests)))
        self._queue.append(request)

    def _check(self, request: Request) -> None:
        """Refuses what cannot be done; a shrink takes back a growth that has not joined."""
        assert self._engine is not None
        total = self._per_epoch * self.config.train.epochs
        if request.at_epoch is not None:
            request.not_before = request.at_epoch * self._per_epoch
        if request.not_before and not self.step < request.not_before < total:
            request.move(
                "refused",
                f"step {request.not_before} is not ahead: the job is at step {self.step} of "
                f"{total} ({self._per_epoch} an epoch)",
            )
            return
        if request.kind == "shrink":
            waiting = [r for r in self._queue if r.kind == "grow" and not r.exact and not r.ended]
            if waiting and not request.not_before:
                self._withdraw(waiting[-1], "taken back by a shrink")
                request.move("done", "took back a growth that had not joined yet")
                request.step = self.step
            elif len(self._engine.specs) - self._leaving_before(request) <= 1:
                request.move("refused", "one stage is left; a job needs it (stop ends the job)")
            return
        self._check_layers(request)

    def _leaving_before(self, request: Request) -> int:
        ahead = [r for r in self._queue if r.kind == "shrink" and not r.exact and not r.ended]
        return len([r for r in ahead if r is not request])

    def _check_layers(self, request: Request) -> None:
        own = request.layers is not None or request.change
        assert self._engine is not None
        if own and (self._engine.parked or self._waiting):
            named = self._engine.parked[0] if self._engine.parked else self._waiting[0]
            request.move(
                "refused",
                f"the next stage has its layers already ({', '.join(named.layers)}); leave "
                "--layers and --layer-config out",
            )
            return
        try:
            self._next(request)
        except ScplRayError as error:
            request.move("refused", str(error))

    # Where the next stage comes from.

    def _next(self, request: Request) -> tuple[StageSpec, Config]:
        assert self._engine is not None
        number = len(self._engine.specs) + 1
        if self._engine.parked:
            return self._engine.parked[0], self.config
        if self._waiting:
            return StageSpec(number, self._waiting[0].layers, True), self.config
        config = extend(self.config, request.layers or 1, request.change)
        names = build_model(config, self._info).names
        known = build_model(self.config, self._info).names
        if names == known:
            raise ConfigError("the new stage would have no layer")
        return StageSpec(number, names[len(known) :], True), config

    # The candidate.

    def advance(self) -> None:
        """Looks at the stage that starts, and starts the next; at any time, from any thread."""
        with self._lock:
            if self._engine is not None and not self._ended and not self.stopping:
                self._advance()

    def _advance(self) -> None:
        if self._active is not None:
            self._look(self._active)
        self._drop_ended()
        if self._active is None and (request := self._first()) is not None:
            self._start(request)

    def _look(self, active: _Active) -> None:
        request, progress = active.request, active.candidate.poll()
        if progress.state == "failed":
            self._give_up(active, "failed", f"stage {active.spec.number}: {progress.text}")
            return
        if progress.state == "ready":
            request.seconds = request.seconds or dict(progress.seconds)
            when = f"it joins at step {request.not_before}" if request.not_before else ""
            request.move("ready", when)
            return
        request.move(progress.state, progress.text)
        waited = time.time() - (request.started_at or request.asked_at)
        if waited > request.timeout_s:
            missing = f"{progress.state} after {request.timeout_s:g} s: {progress.text}"
            self._give_up(active, "given up", f"stage {active.spec.number} was still {missing}")

    def _first(self) -> Request | None:
        """The growth that shall start now, if any."""
        pace, seen, _ = self._pace
        due = []
        for position, request in enumerate(self._queue):
            ahead = max(0, request.not_before - self.step)
            if request.kind == "grow" and is_time(ahead, seen, pace, self.config.elastic.lead_s):
                due.append((ahead, position, request))
        return min(due)[2] if due else None

    def _start(self, request: Request) -> None:
        assert self._engine is not None
        request.started_at = time.time()
        try:
            spec, config = self._next(request)
            candidate = self._engine.prepare(spec, config, request.ask)
        except Exception as error:
            request.move("failed", f"a stage could not be started: {error}")
            self._told(request)
            return
        request.stage = spec.number
        self._active = _Active(request, candidate, spec, config)
        self._look(self._active)

    def _give_up(self, active: _Active, state: str, text: str) -> None:
        active.candidate.cancel()
        self._active = None
        active.request.move(state, text)
        self._told(active.request)

    def _told(self, request: Request) -> None:
        self._drop_ended()
        self.changes.gave_up(request)
        self._say(f"growth {request.state}: {request.text}; the job goes on as it was")

    def _withdraw(self, request: Request, why: str) -> None:
        if self._active is not None and self._active.request is request:
            self._active.candidate.cancel()
            self._active = None
        request.move("withdrawn", why)
        self.changes.gave_up(request)

    def _withdraw_all(self, why: str) -> None:
        for request in self._queue:
            if not request.ended:
                self._withdraw(request, why)
        self._queue = []

    def _drop_ended(self) -> None:
        self._queue = [r for r in self._queue if not r.ended and r.state != "joined"]

    # Boundaries.

    def boundary(self, work: schedule.Work) -> Go:
        """Changes the stages before `work` is sent; called by the engine's loop."""
        with self._lock:
            if self.stopping:
                return Go.STOP
            if not isinstance(work, schedule.Train):
                return Go.ON
            if work.step != self.step:
                self._measure()
            self.step, self.epoch = work.step, work.epoch
            assert self._engine is not None
            for spec, state in self._engine.left():
                self._on_left(spec, state)
            self._advance()
            return self._due()

    def _measure(self) -> None:
        pace, seen, last = self._pace
        now = time.monotonic()
        if last:
            pace = now - last if seen == 0 else 0.8 * pace + 0.2 * (now - last)
            seen += 1
        self._pace = (pace, seen, now)

    def _due(self) -> Go:
        """Does what is due at this boundary; WAIT while an exact growth is not ready."""
        while True:
            due = [r for r in self._queue if r.not_before <= self.step]
            exact = [r for r in due if r.exact]
            request = exact[0] if exact else next(iter(due), None)
            if request is None:
                return Go.ON
            if request.kind == "shrink":
                self._leave(request)
            elif self._active is not None and self._active.request is request:
                if request.state != "ready":
                    return Go.WAIT if request.exact else Go.ON
                self._join(self._active)
            elif request.exact:
                self._put_back()
                self._start(request)
            else:
                return Go.ON

    def _put_back(self) -> None:
        """A change that must be now comes first: the stage that starts begins again after it."""
        if self._active is not None:
            self._active.candidate.cancel()
            self._active.request.move("queued", "behind a planned change")
            self._active = None

    def _join(self, active: _Active) -> None:
        assert self._engine is not None
        request, spec = active.request, active.spec
        returned = spec in self._engine.parked
        self._engine.join(active.candidate, self.step)
        self.changes.joined(request, spec, self.step, self.epoch, returned, self.config)
        if self._waiting and spec.layers == self._waiting[0].layers:
            self._waiting.pop(0)
        self.config, self._active = active.config, None
        request.move("joined", f"from step {self.step} on")
        request.step = self.step
        self._changed()

    def _leave(self, request: Request) -> None:
        assert self._engine is not None
        if len(self._engine.specs) == 1:
            request.move("refused", "one stage is left; a job needs it")
            self._drop_ended()
            return
        self._put_back()
        spec = self._engine.leave(self.config)
        request.stage, request.step = spec.number, self.step
        request.move("done", f"stage {spec.number} left before step {self.step}")
        self.changes.left(request, spec, self.step, self.epoch)
        self._say(f"stage {spec.number} leaves before step {self.step}; it evaluates still")
        self._changed()

    def _changed(self) -> None:
        self._drop_ended()
        self._accuracies = []
        self.changes.epoch = self.epoch
        self._on_change()

    # What comes back.

    def done(self, done: Done) -> None:
        """Takes in a finished piece of work: the first batch of a new stage, or its failure."""
        with self._lock:
            for request in self.changes.first_batches(done):
                request.move("done", self.changes.started_line(request))
                self._say(request.text)
            # The last first: each brings back the config from before it joined.
            for spec, error in reversed(done.lost):
                request, before = self.changes.lost(spec)
                if before is not None:
                    self.config = before
                    self._restore_waiting(spec)
                request.move("failed", f"stage {spec.number} was taken out: {error}")
                self._told(request)
                self._put_back()
            if done.lost:
                self._changed()

    def _restore_waiting(self, spec: StageSpec) -> None:
        names = build_model(self.config, self._info).names
        if spec.layers[0] in names:
            self._waiting.insert(0, spec)

    def evaluated(self, epoch: int, exits: list[ExitResult]) -> None:
        """Lets the policy decide after the validation of an epoch."""
        when = self.config.elastic.grow_when
        with self._lock:
            if when is None or self._engine is None or self.stopping or not exits:
                return
            if epoch < self.changes.epoch or any(r.kind == "grow" for r in self._queue):
                return
            self._accuracies.append(exits[-1].accuracy)
            room = self._engine.can_get(Ask())
            choice = decide(when, self._accuracies, len(self._engine.specs), room)
            self._say(f"growth by need: {'yes' if choice.grow else 'no'}: {choice.reason}")
            if choice.grow:
                timeout = self.config.elastic.timeout_s
                number = f"policy-{epoch + 1}"
                self._add(Request(number, "grow", "policy", choice.reason, timeout_s=timeout))
                self._advance()

    def finish(self) -> None:
        """No more training: what has not joined never will."""
        with self._lock:
            self._ended = True
            self._withdraw_all("training has ended")

    def views(self) -> list[dict[str, Any]]:
        """All requests that are known, the oldest first."""
        with self._lock:
            return [request.view() for request in self._requests.values()]
