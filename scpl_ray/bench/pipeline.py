"""Efficiency of the pipeline: the slowest stage's compute alone against the streamed step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from scpl_ray import schedule
from scpl_ray.bench.alone import stages_alone, stages_side_by_side
from scpl_ray.bench.measured import Measured, Turn
from scpl_ray.bench.processes import cpu_seconds
from scpl_ray.config import Config
from scpl_ray.engine.pipeline import RayEngine
from scpl_ray.engine.placement import num_cores
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages
from scpl_ray.stage_facts import StageSpec, StageStats

_WARM_UP, _MOST_WARM_UP_S = 40, 30.0
_START_S = 30.0
PARTS = ("waiting", "receive", "forward", "loss", "backward", "optimizer", "send", "snapshot")


def measure(config: Config, steps: int, repeats: int) -> Measured:
    """Runs stages alone and the pipeline in turns, so that both see the same machine.

    Args:
        config: the job.
        steps: timed steps of each turn, at least.
        repeats: turns.
    """
    alone, beside, turns = [], [], []
    with _started(config) as (streaming, specs):
        for _ in range(repeats):
            before = stages_alone(config, specs, max(20, steps // 3))
            turns.append(streaming.turn(steps))
            after = stages_alone(config, specs, max(20, steps // 3))
            beside.append(stages_side_by_side(config, specs, max(20, steps // 3)))
            alone.append([(a + b) / 2 for a, b in zip(before, after, strict=True)])
        threads, grown = streaming.engine.threads, streaming.grown_mib()
    replicas = [config.replicas_of(spec.number) for spec in specs]
    limits = [limit(each, threads, replicas) for each in alone]
    return Measured(
        num_cores(),
        threads,
        [statistics.median(column) for column in zip(*alone, strict=True)],
        limits,
        [least / turn.step_ms for least, turn in zip(limits, turns, strict=True)],
        [statistics.median(column) for column in zip(*beside, strict=True)],
        [limit(each, threads, replicas) for each in beside],
        grown,
        turns,
    )


def stream(config: Config, steps: int, repeats: int) -> tuple[list[Turn], list[float]]:
    """Runs the pipeline, and nothing beside it.

    Args:
        config: the job.
        steps: timed steps of each turn, at least.
        repeats: turns.

    Returns:
        The turns, and what each stage's process had more of its own, at most, in MiB.
    """
    with _started(config) as (streaming, _):
        return [streaming.turn(steps) for _ in range(repeats)], streaming.grown_mib()


def limit(alone_ms: list[float], threads: int, replicas: list[int] | None = None) -> float:
    """The least that a step can cost on this machine's cores, in milliseconds.

    Args:
        alone_ms: of each stage.
        threads: of each process.
        replicas: of each stage; None: one each.
    """
    each = [ms / r for ms, r in zip(alone_ms, replicas or [1] * len(alone_ms), strict=True)]
    return max(*each, sum(alone_ms) * threads / num_cores()) if alone_ms else 0.0


class Streaming:
    """A pipeline that goes on with its steps from turn to turn.

    Args:
        engine: with its stages.
    """

    def __init__(self, engine: RayEngine) -> None:
        self.engine, self.begun = engine, 0

    def warm_up(self) -> None:
        """Lets the pipeline come to where it stays.

        It finds out how many batches go into a call, its spare process starts, and the object store
        grows to what a period between snapshots keeps for a replay: a page costs more when it is
        touched for the first time (a stage's step on a virtual machine 3 %), and a long run is
        through with that after half a minute.
        """
        self._flow(_WARM_UP)
        self.engine.members.spare.settle(_START_S)
        marks, begun = self.engine.marks, time.monotonic()
        while not marks.settled and time.monotonic() - begun < _MOST_WARM_UP_S:
            self._flow(self._under_way())
        begun = time.monotonic()
        while time.monotonic() - begun < min(_MOST_WARM_UP_S, marks.every_s()):
            self._flow(self._under_way())

    def _flow(self, steps: int) -> None:
        for _ in self.engine.run(self._work(steps)):
            pass

    def _work(self, steps: int) -> list[schedule.Train]:
        self.begun += steps
        return [schedule.Train(i, 0) for i in range(self.begun - steps, self.begun)]

    def grown_mib(self) -> list[float]:
        """The most that each stage's process has of its own for the stage, while work flows.

        In steps of its own: to look at memory all the time takes a percent of a core.
        """
        actors = [member.actor for member in self.engine.members.live]
        ray.get([actor.watch_memory.remote() for actor in actors])
        self._flow(2 * self._under_way())
        return ray.get([actor.grown_mib.remote() for actor in actors])

    def _under_way(self) -> int:
        """Steps that are under way at most, and ten at least."""
        return max(10, self.engine.chain.window * self.engine.calls.now())

    def turn(self, steps: int) -> Turn:
        """Streams steps and measures those between the filling and the draining of the window.

        Args:
            steps: to be measured; more where that is not twice what is under way.
        """
        engine = self.engine
        first = self._under_way()
        work = self._work(first + max(steps, 2 * first) + first)
        last = len(work) - first
        start = time.perf_counter()
        filled = 0.0
        stats: list[tuple[StageStats, ...]] = []
        cpu: dict[str, float] = {}
        spent: dict[str, float] = {}
        between = [0.0, 0.0]
        for done in engine.run(work):
            stats.append(done.stats)
            if len(stats) == 1:
                filled = time.perf_counter() - start
            if len(stats) == first:
                cpu, between[0] = cpu_seconds(engine.pids), time.time()
            if len(stats) == last:
                spent, between[1] = cpu_seconds(engine.pids), time.time()
        spent = {kind: seconds - cpu.get(kind, 0.0) for kind, seconds in spent.items()}
        # A stage is ahead of what is through, not always by as much: its time is by its own steps.
        per_stage = {f"stage {s[0].stage}": _done(s, between) for s in zip(*stats, strict=True)}
        steady = list(zip(*stats[first:last], strict=True))
        return Turn(
            # By the moments at which the slowest to finish finished: many come back in one call.
            1000 * _pace([s[-1].finished_at for s in stats[first:last]]),
            1000 * filled,
            [_parts(column) for column in steady],
            [1000 * statistics.fmean(s.cpu_s for s in own) for own in per_stage.values()],
            {k: 1000 * s / len(per_stage.get(k, range(first, last))) for k, s in spent.items()},
            sum(statistics.fmean(s.given_mib for s in column) for column in steady),
            engine.calls.now(),
        )


@contextmanager
def _started(config: Config) -> Iterator[tuple[Streaming, list[StageSpec]]]:
    """A warm pipeline of the config's stages; closed at the end."""
    engine = RayEngine(config)
    try:
        ready = engine.prepare_data()
        model = build_model(config, ready.info)
        specs = plan_stages(config, partition(model.names, config.stages))
        engine.start(specs, None)
        streaming = Streaming(engine)
        streaming.warm_up()
        yield streaming, specs
    finally:
        engine.close()


def _done(stats: Sequence[StageStats], between: Sequence[float]) -> list[StageStats]:
    """The steps of one stage that ended between two moments, in seconds since 1970."""
    return [s for s in stats if between[0] < s.finished_at <= between[1]]


def _pace(finished: list[float]) -> float:
    return (finished[-1] - finished[0]) / (len(finished) - 1)


def _parts(column: tuple[StageStats, ...]) -> dict[str, float]:
    def mean(of: str) -> float:
        return 1000 * statistics.fmean(getattr(s, f"{of}_s") for s in column)

    names = [name for name in PARTS if name != "optimizer"]
    parts = {name: mean(name) for name in names}
    parts["optimizer"] = mean("update") - parts["loss"] - parts["backward"]
    return {name: parts[name] for name in PARTS}


def scaling(
    configs: dict[int, Config], steps: int, repeats: int
) -> dict[int, tuple[float, float, float, float]]:
    """Overhead and memory against the number of stages.

    Returns:
        By number of stages: step in ms, compute of all stages in ms, and CPU time outside the
        stages' compute in ms per step and stage, medians; the most memory of the second stage, MiB.
    """
    rows = {}
    for number, config in configs.items():
        turns, grown_mib = stream(config, steps, repeats)
        rows[number] = (
            statistics.median(turn.step_ms for turn in turns),
            statistics.median(sum(turn.compute_ms) for turn in turns),
            statistics.median(turn.overhead_ms for turn in turns),
            grown_mib[1],
        )
    return rows
