"""The one stage that starts beside the pipeline, and where the next stage's layers come from."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.elastic.request import Request
from scpl_ray.engine.base import Candidate, Engine
from scpl_ray.errors import ConfigError, ScplRayError
from scpl_ray.models.growth import extend
from scpl_ray.models.registry import build_model
from scpl_ray.stage_facts import StageSpec

_MOST_STARTS = 4


@dataclass
class Active:
    """A stage that starts.

    Attributes:
        request: what it is for.
        candidate: the engine's handle.
        spec: where it will sit.
        config: the network's config once it has joined.
    """

    request: Request
    candidate: Candidate
    spec: StageSpec
    config: Config


class Starter:
    """Starts stages, one at a time.

    Args:
        engine: with the first stages started.
        info: what layers must fit.
        config: the network's config; grows with it.
        waiting: stages of the config's cut that shall join later.
    """

    def __init__(
        self, engine: Engine, info: DataInfo, config: Config, waiting: list[StageSpec]
    ) -> None:
        self.engine, self.info, self.config = engine, info, config
        self.waiting = list(waiting)
        self.active: Active | None = None

    def is_for(self, request: Request) -> bool:
        """Whether the stage that starts is the one of a request."""
        return self.active is not None and self.active.request is request

    def next_stage(self, request: Request) -> tuple[StageSpec, Config]:
        """The stage that a growth adds, and the network's config with it.

        One that has left comes back; else the next of the config's cut; else the model's pattern
        goes on.

        Raises:
            ConfigError: the model has no pattern, or the layer config is not accepted.
        """
        number = len(self.engine.specs) + 1
        if self.engine.parked:
            return self.engine.parked[0], self.config
        if self.waiting:
            return StageSpec(number, self.waiting[0].layers, True), self.config
        config = extend(self.config, request.layers or 1, request.change)
        names = build_model(config, self.info).names
        known = build_model(self.config, self.info).names
        if names == known:
            raise ConfigError("the new stage would have no layer")
        return StageSpec(number, names[len(known) :], True), config

    def refusal(self, request: Request) -> str:
        """Why a growth cannot be; empty if it can."""
        ahead = [*self.engine.parked, *self.waiting]
        if (request.layers is not None or request.change) and ahead:
            return (
                f"the next stage has its layers already ({', '.join(ahead[0].layers)}); leave "
                "--layers and --layer-config out"
            )
        try:
            self.next_stage(request)
        except ScplRayError as error:
            return str(error)
        return ""

    def start(self, request: Request) -> bool:
        """Starts the stage of a request; False, and the request says why, if it cannot."""
        request.started_at = time.time()
        request.starts += 1
        try:
            spec, config = self.next_stage(request)
            candidate = self.engine.prepare(spec, config, request.ask)
        except Exception as error:
            request.move("failed", f"a stage could not be started: {error}")
            return False
        request.stage = spec.number
        self.active = Active(request, candidate, spec, config)
        return self.look()

    def look(self) -> bool:
        """Looks how far it is; False, and the request says why, if it has come to nothing."""
        assert self.active is not None
        request, spec = self.active.request, self.active.spec
        progress = self.active.candidate.poll()
        if progress.state == "died" and request.starts < _MOST_STARTS:
            # Its process was killed, or its machine is gone: that says nothing of the stage.
            self.cancel("queued", f"its process died ({progress.text}); it is started again")
            return self.start(request)
        if progress.state in ("failed", "died"):
            self.cancel("failed", f"stage {spec.number}: {progress.text}")
            return False
        if progress.state == "ready":
            request.seconds = request.seconds or dict(progress.seconds)
            when = f"it joins at step {request.not_before}" if request.not_before else ""
            request.move("ready", when)
            return True
        request.move(progress.state, progress.text)
        waited = time.time() - (request.started_at or request.asked_at)
        if waited > request.timeout_s:
            missing = f"{progress.state} after {request.timeout_s:g} s: {progress.text}"
            self.cancel("given up", f"stage {spec.number} was still {missing}")
            return False
        return True

    def cancel(self, state: str, text: str) -> None:
        """Ends the stage that starts, if there is one, and gives its resources back."""
        if self.active is not None:
            self.active.candidate.cancel()
            self.active.request.move(state, text)
            self.active = None

    def join(self, step: int) -> Active:
        """Lets batches flow through the ready stage, from `step` on."""
        active, self.active = self.active, None
        assert active is not None
        self.engine.join(active.candidate, step)
        if self.waiting and active.spec.layers == self.waiting[0].layers:
            self.waiting.pop(0)
        self.config = active.config
        return active

    def undo(self, spec: StageSpec, before: Config) -> None:
        """Forgets a stage that joined and failed; one of the config's cut may join again."""
        self.config = before
        if spec.layers[0] in build_model(before, self.info).names:
            self.waiting.insert(0, spec)
