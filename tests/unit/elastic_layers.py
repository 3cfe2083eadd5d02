"""What the tests of growing jobs share: an engine without layers, and layers that fail."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.elastic.control import Control
from scpl_ray.elastic.request import Request
from scpl_ray.engine.base import Ask, Done, Go, Progress
from scpl_ray.errors import RunError
from scpl_ray.evaluate import ExitResult
from scpl_ray.models import Activation, LayeredModel, LayerSpec, build_model
from scpl_ray.schedule import Train
from scpl_ray.stage_facts import StageSpec, StageStats
from tests.unit.tools import TEXT, config

READY, STARTING = Progress("ready", seconds={"build": 1.0}), Progress("starting", "layers")


class Candidate:
    def __init__(self, spec: StageSpec, settings: Config) -> None:
        self.spec, self.config = spec, settings
        self.says, self.cancelled = STARTING, False

    def poll(self) -> Progress:
        assert not self.cancelled
        return self.says

    def cancel(self) -> None:
        self.cancelled = True


class FakeEngine:
    """Stages without layers: what `Control` sees of an engine."""

    def __init__(self, specs: list[StageSpec]) -> None:
        self.specs, self.parked = specs, []
        self.made: list[Candidate] = []
        self.asks: list[Ask] = []
        self.joined: list[tuple[int, int]] = []
        self.problem, self.no_room = "", ""
        self.leaving: list[int] = []
        self.freed: list[int] = []

    def prepare(self, spec: StageSpec, settings: Config, ask: Ask) -> Candidate:
        if self.problem:
            raise RunError(self.problem)
        self.made.append(Candidate(spec, settings))
        self.asks.append(ask)
        return self.made[-1]

    def join(self, candidate: Candidate, step: int) -> None:
        assert candidate.says is READY
        assert not candidate.cancelled
        assert candidate.spec.number == len(self.specs) + 1
        self.specs.append(candidate.spec)
        self.joined.append((candidate.spec.number, step))
        if candidate.spec in self.parked:
            self.parked.remove(candidate.spec)

    def leave(self, settings: Config) -> StageSpec:
        self.parked.insert(0, self.specs.pop())
        self.leaving.append(self.parked[0].number)
        return self.parked[0]

    def free_left(self) -> None:
        self.freed += self.leaving
        self.leaving = []

    def can_get(self, ask: Ask) -> str:
        return self.no_room


class Job:
    """A control over a fake engine: `stages` of encoders of one layer, an epoch of 10 steps."""

    def __init__(self, stages: int = 3, cut: int | None = None, **elastic: Any) -> None:
        settings = config(
            model__layers=(cut or stages) - 1, train__epochs=3, elastic={"lead_s": 0} | elastic
        )
        names = build_model(settings, TEXT).names
        specs = [StageSpec(n, (name,), True) for n, name in enumerate(names, 1)]
        self.engine, self.waiting = FakeEngine(specs[:stages]), specs[stages:]
        self.said: list[str] = []
        self.changed: list[int] = []
        self.control = Control(
            settings,
            self.said.append,
            lambda: self.changed.append(len(self.engine.specs)),
        )

    def begin(self) -> Job:
        self.control.begin(self.engine, TEXT, 10, self.waiting)  # type: ignore[arg-type]
        return self

    def ask(self, kind: Any, name: str = "a", **more: Any) -> Request:
        request = Request(name, kind, **more)
        self.control.handle(request)
        return request

    def at(self, step: int) -> Go:
        return self.control.boundary(Train(step, step // 10))

    def ready(self) -> Candidate:
        self.engine.made[-1].says = READY
        return self.engine.made[-1]

    def grown(self, step: int, **more: Any) -> Request:
        """A growth that joins at `step`."""
        request = self.ask("grow", f"at-{step}", **more)
        self.ready()
        assert self.at(step) is Go.ON
        assert request.state == "joined"
        return request

    def trained(self, step: int, lost: tuple[Any, ...] = ()) -> None:
        stats = [_stats(spec.number, step) for spec in self.engine.specs]
        self.control.done(Done(Train(step, step // 10), tuple(stats), lost=lost))

    def lose(self, number: int, step: int, back: bool = False) -> list[StageSpec]:
        """The engine takes stage `number` and those after it out."""
        lost = [s for s in self.engine.specs if s.number >= number]
        self.engine.specs = [s for s in self.engine.specs if s.number < number]
        self.engine.parked = lost if back else []
        self.trained(step, tuple((spec, RunError("broken layer")) for spec in lost))
        return lost

    def evaluated(self, epoch: int, accuracy: float) -> None:
        exits = [ExitResult(1, 0.0, 1.0, 9), ExitResult(2, accuracy, 1.0, 9)]
        self.control.evaluated(epoch, exits)

    def state(self, name: str) -> str:
        return next(v["state"] for v in self.control.views() if v["id"] == name)

    @property
    def layers(self) -> tuple[str, ...]:
        return build_model(self.control.config, TEXT).names

    @property
    def given_up(self) -> list[tuple[str, str]]:
        return [(r["kind"], r["state"]) for r in self.control.changes.given_up]


def _stats(stage: int, step: int) -> StageStats:
    now = time.time()
    return StageStats(stage, step, 1.0, 1.0, None, None, 4, 0.0, 0.1, 0.0, 0.0, finished_at=now)


# --- layers --------------------------------------------------------------------------------------


class FailsAt(nn.Module):
    """Raises at its training batch `step`, counted from 0."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.seen = step, 0
        self.scale = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.training and self.seen == self.step + 1:
            raise ArithmeticError("a broken layer")
        return self.scale(x)


class Bag(nn.Module):
    """Token ids [B, T] -> [B, 8]."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tokens(ids).mean(1)


def flat(activation: Activation) -> Tensor:
    return activation.hidden.flatten(1)


def bags(data: DataInfo, layers: int = 2, fails: dict[int, int] | None = None) -> LayeredModel:
    """`bag`, then `linear.1`, ...; layer k of `fails` raises at its training batch fails[k].

    Goes on with layers `more.1`, ..., of which number k is layer `layers` + k.
    """
    fails = {int(k): v for k, v in (fails or {}).items()}

    def layer(name: str, number: int) -> LayerSpec:
        if number in fails:
            return LayerSpec(name, lambda: FailsAt(fails[number]), flat)
        return LayerSpec(name, lambda: nn.Linear(8, 8), flat)

    first = LayerSpec("bag", lambda: Bag(data.vocab_size), flat)
    rest = [layer(f"linear.{k}", k) for k in range(1, layers)]
    return LayeredModel((first, *rest), more=lambda k: layer(f"more.{k}", layers + k - 1))


def one(data: DataInfo, name: str = "own", width: int = 8) -> Any:
    """One layer of another kind."""
    return [(name, nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)))], flat


def tokens(data: DataInfo) -> Any:
    """A network without `more`."""
    return [("bag", Bag(data.vocab_size)), ("linear", nn.Linear(8, 8))], flat
