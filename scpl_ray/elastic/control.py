"""Who joins and who leaves at each batch boundary: plan, policy and commands in one place.

    command, plan, policy -> Request -> a stage starts beside the pipeline -> boundary -> joined

One stage starts at a time; later wishes queue (`wishes`). `boundary` is called by the engine's
loop before a piece of work is sent, `handle` and `advance` by the thread that carries commands: a
lock keeps them apart. Knows neither Ray nor losses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.elastic.changes import Changes
from scpl_ray.elastic.plan import Pace, decide
from scpl_ray.elastic.request import Request, note_of
from scpl_ray.elastic.starter import Starter
from scpl_ray.elastic.wishes import Wishes
from scpl_ray.engine.base import Ask, Done, Engine, Go
from scpl_ray.exits import ExitResult
from scpl_ray.stage_facts import StageSpec


class Control:
    """Decides membership.

    Args:
        config: the run's config.
        say: takes one line for the log.
        on_change: called after the stages have changed.
        note: is given each change before it happens, as plain values.
        forget: is given the id of a change that came to nothing after all.
    """

    def __init__(
        self,
        config: Config,
        say: Callable[[str], None],
        on_change: Callable[[], None],
        note: Callable[[dict[str, Any]], None] = lambda change: None,
        forget: Callable[[str], None] = lambda key: None,
    ) -> None:
        self._config, self._say = config, say
        self._note, self._forget = note, forget
        self._on_change = on_change
        self._lock = threading.RLock()
        self._starter: Starter | None = None
        self._ended = False
        self.stopping = False
        self.step, self.epoch = 0, 0
        self.changes = Changes()
        self._wishes = Wishes(config, self.changes)
        self._accuracies: list[float] = []
        self._pace = Pace()
        self._since, self._recalled = 0, config
        self._noted: list[dict[str, Any]] = []

    def recall(
        self, step: int, records: dict[str, Any], noted: list[dict[str, Any]], config: Config
    ) -> None:
        """The run goes on; called before `begin`.

        Args:
            step: the next training step.
            records: what had changed before it.
            noted: changes from that step on that were made before the crash; they are made again,
                each at its step.
            config: the network's config of then.
        """
        self._since, self._noted, self._recalled = step, noted, config
        self.step = step
        self.changes.recall(records)

    def learned(self, validation: dict[int, list[ExitResult]]) -> None:
        """What the policy knew of the stages of now before the run went on."""
        known = {e: exits for e, exits in validation.items() if exits and e >= self.changes.epoch}
        self._accuracies = [known[epoch][-1].accuracy for epoch in sorted(known)]

    def begin(
        self, engine: Engine, info: DataInfo, steps_per_epoch: int, waiting: list[StageSpec]
    ) -> None:
        """Training begins.

        Args:
            engine: with the first stages started.
            info: what layers must fit.
            steps_per_epoch: training steps of an epoch.
            waiting: stages of the config's cut that shall join later.
        """
        with self._lock:
            self._starter = Starter(engine, info, self._recalled, waiting)
            self._wishes.begin(self._starter, steps_per_epoch, self._since, self._noted)

    @property
    def config(self) -> Config:
        """The network's config of now: with the layers that have joined."""
        return self._config if self._starter is None else self._starter.config

    # What others ask for.

    def handle(self, request: Request) -> None:
        """Takes in a command; its outcome is read from `views`."""
        with self._lock:
            if self._wishes.knows(request):
                return  # sent again: the sender did not hear that it had arrived
            self._wishes.add(request)
            if self._ended or self.stopping:
                request.move("refused", "the training of this job has ended, or ends now")
            elif self._starter is None:
                request.text = "training has not begun"
            else:
                self._wishes.check(request, self.step)
                self._advance()
            self._wishes.drop_ended()

    def stop(self) -> None:
        """Ends training at the next boundary."""
        with self._lock:
            self.stopping = True
            self._wishes.withdraw_all("the job stops")

    def finish(self) -> None:
        """No more training: what has not joined never will."""
        with self._lock:
            self._ended = True
            self._wishes.withdraw_all("training has ended")

    def views(self) -> list[dict[str, Any]]:
        """All requests that are known, the oldest first."""
        with self._lock:
            return self._wishes.views()

    # The stage that starts.

    def advance(self) -> None:
        """Looks at the stage that starts, and starts the next; at any time, from any thread."""
        with self._lock:
            if self._starter is not None and not self._ended and not self.stopping:
                self._advance()

    def _advance(self) -> None:
        assert self._starter is not None
        if self._starter.active is not None:
            request = self._starter.active.request
            if not self._starter.look():
                self._told(request)
        self._wishes.drop_ended()
        due = self._first()
        if due is None or self._starter.is_for(due):
            return
        if self._starter.active is not None:
            if due.not_before > self.step or self._starter.active.request.not_before <= self.step:
                return
            self._starter.cancel("queued", "behind a growth that is due now")
        self._start(due)

    def _first(self) -> Request | None:
        """The growth that shall start now, if any."""
        due = []
        for position, request in enumerate(self._wishes.queue):
            ahead = max(0, request.not_before - self.step)
            soon = self._pace.is_time(ahead, self._config.elastic.lead_s)
            if request.kind == "grow" and soon:
                due.append((ahead, position, request))
        return min(due)[2] if due else None

    def _start(self, request: Request) -> None:
        assert self._starter is not None
        if not self._starter.start(request):
            self._told(request)

    def _told(self, request: Request) -> None:
        self._wishes.drop_ended()
        self.changes.gave_up(request)
        what = "growth" if request.kind == "grow" else "shrink"
        self._say(f"{what} {request.state}: {request.text}; the job goes on as it was")

    # Boundaries.

    def boundary(self, work: schedule.Work) -> Go:
        """Changes the stages before `work` is sent; called by the engine's loop."""
        with self._lock:
            if not isinstance(work, schedule.Train):
                return Go.ON
            if self.stopping:
                return Go.STOP
            if work.step != self.step:
                self._pace.mark()
            self.step, self.epoch = work.step, work.epoch
            assert self._starter is not None
            self._starter.engine.free_left()
            self._advance()
            return self._due()

    def _due(self) -> Go:
        """Does what is due at this boundary; WAIT while an exact growth is not ready."""
        assert self._starter is not None
        while True:
            due = [r for r in self._wishes.queue if r.not_before <= self.step]
            turn = [
                r
                for r in due
                if r.kind == "shrink" or (self._starter.is_for(r) and r.state == "ready")
            ]
            request = next((r for r in due if r.exact), next(iter(turn), None))
            if request is None:
                return Go.ON
            if request.kind == "shrink":
                self._leave(request)
            elif self._starter.is_for(request):
                if request.state != "ready":
                    return Go.WAIT
                self._join(request)
            else:
                self._starter.cancel("queued", "behind a planned change")
                self._start(request)

    def _join(self, request: Request) -> None:
        assert self._starter is not None
        self._note(note_of(request, self.step))
        before, parked = self._starter.config, list(self._starter.engine.parked)
        spec = self._starter.join(self.step).spec
        self.changes.joined(request, spec, self.step, self.epoch, spec in parked, before)
        request.move("joined", f"from step {self.step} on")
        request.step = self.step
        self._changed()

    def _leave(self, request: Request) -> None:
        assert self._starter is not None
        engine = self._starter.engine
        if len(engine.specs) == 1:
            request.move("refused", "one stage is left; a job needs it")
            self._told(request)
            return
        self._note(note_of(request, self.step))
        self._starter.cancel("queued", "behind a stage that leaves")
        spec = engine.leave(self.config)
        request.stage, request.step = spec.number, self.step
        request.move("done", f"stage {spec.number} left before step {self.step}")
        self.changes.left(request, spec, self.step, self.epoch)
        self._say(f"stage {spec.number} leaves before step {self.step}; it evaluates still")
        self._changed()

    def _changed(self) -> None:
        self._wishes.drop_ended()
        self._accuracies = []
        self.changes.changed(self.step, self.epoch)
        self._on_change()

    # What comes back.

    def done(self, done: Done) -> None:
        """Takes in a finished piece of work: the first batch of a new stage, or its failure."""
        with self._lock:
            for request in self.changes.first_batches(done):
                request.move("done", self.changes.started_line(request))
                self._say(request.text)
            assert self._starter is not None
            # The last first: each brings back the config from before it joined.
            for spec, error in reversed(done.lost):
                back = spec in self._starter.engine.parked
                request, before = self.changes.lost(spec, back)
                self._forget(request.id)
                if before is not None:
                    self._starter.undo(spec, before)
                self._starter.cancel("queued", "behind a stage that failed")
                request.move("failed", f"stage {spec.number} was taken out: {error}")
                self._told(request)
            if done.lost:
                self._changed()

    def config_before(self, step: int) -> Config:
        """The network's config before `step`."""
        with self._lock:
            return self.changes.config_before(step, self.config)

    def evaluated(self, epoch: int, exits: list[ExitResult]) -> None:
        """Lets the policy decide after the validation of an epoch."""
        when = self._config.elastic.grow_when
        with self._lock:
            if when is None or self._starter is None or self.stopping or not exits:
                return
            if epoch < self.changes.epoch or any(r.kind == "grow" for r in self._wishes.queue):
                return
            self._accuracies.append(exits[-1].accuracy)
            engine = self._starter.engine
            choice = decide(when, self._accuracies, len(engine.specs), engine.can_get(Ask()))
            self._say(f"growth by need: {'yes' if choice.grow else 'no'}: {choice.reason}")
            if choice.grow:
                wish = Request(f"policy-{epoch + 1}", "grow", "policy", choice.reason)
                wish.timeout_s = self._config.elastic.timeout_s
                self._wishes.add(wish)
                self._advance()
