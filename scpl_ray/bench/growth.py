"""What a growth costs a job that trains: time until the new stage works, and gaps of stage 1."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scpl_ray.config import Config, load_config
from scpl_ray.elastic.request import Request
from scpl_ray.engine.base import Done
from scpl_ray.job import Job
from scpl_ray.report import Reporter
from scpl_ray.start import Start

_WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Growth:
    """One growth; times in seconds, those of `bins` counted from the request.

    Attributes:
        bins: second -> steps that stage 1 finished in it.
        before: steps a second before the request.
        after: steps a second once the new stage works.
        step_ms: stage 1's median step before the request, in milliseconds.
        gap_ms: the longest time between two finished steps of stage 1 during the growth.
        seconds: from the request to the first batch through the new stage, and its parts.
    """

    bins: dict[int, int]
    before: float
    after: float
    step_ms: float
    gap_ms: float
    seconds: dict[str, float]

    @property
    def gap_ratio(self) -> float:
        """Longest gap in median steps."""
        return self.gap_ms / self.step_ms


class _Watch(Reporter):
    """Asks for a stage in steady state, and stops the job some seconds after it has joined."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self.finished: list[float] = []
        self.requested_at: float | None = None
        self.joined_at: float | None = None
        self.ask: Callable[[], None] = lambda: None
        self.stop: Callable[[], None] = lambda: None
        self._steady_at: float | None = None

    def step(self, epoch: int, done: Done) -> None:
        """Notes when stage 1 finished its step."""
        now = done.stats[0].finished_at
        self.finished.append(now)
        if len(self.finished) == _WARM_UP_STEPS:
            self._steady_at = now
        if self._steady_at is None:
            return
        if self.requested_at is None and now - self._steady_at > self.span_s:
            self.requested_at = time.time()
            self.ask()
        if self.joined_at is None and len(done.stats) > self.stages:
            self.joined_at = done.stats[-1].finished_at
        if self.joined_at is not None and now - self.joined_at > self.span_s:
            self.stop()

    def started(self, plan: Any) -> None:
        """Remembers the number of stages before."""
        self.stages = plan.training


def measure(config: Config, repeats: int, span_s: float) -> list[Growth]:
    """Runs a job `repeats` times, and grows it once each time.

    Args:
        config: the job; long enough.
        repeats: runs.
        span_s: seconds of steady state before and after.
    """
    growths = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="scpl-ray-bench-") as folder:
            own = load_config(config, [f"output.dir={folder}", "output.tensorboard=false"])
            growths.append(_once(own, span_s))
    return growths


def _once(config: Config, span_s: float) -> Growth:
    watch = _Watch(span_s)
    job = Job(Start(config, overwrite=True), watch)
    watch.ask = lambda: job.control.handle(Request("bench", "grow", reason="benchmark"))
    watch.stop = job.control.stop
    summary = job.train().summary
    return analyse(watch, summary["grown"][0]["seconds"], span_s)


def analyse(watch: _Watch, seconds: dict[str, float], span_s: float) -> Growth:
    """Turns the times at which stage 1 finished its steps into figures."""
    begin, joined = watch.requested_at, watch.joined_at
    assert begin is not None and joined is not None, "the job ended before it had grown"
    times = watch.finished[_WARM_UP_STEPS:]
    bins = Counter(int((t - begin) // 1) for t in times)
    before = [t for t in times if t <= begin]
    after = [t for t in times if t > joined]
    # From the last step before the request to the first after the new stage has worked.
    during = [before[-1], *(t for t in times if begin < t <= joined), *after[:1]]
    steps = [b - a for a, b in itertools.pairwise(before)]
    gaps = [b - a for a, b in itertools.pairwise(during)]
    return Growth(
        dict(sorted(bins.items())),
        (len(before) - 1) / (before[-1] - before[0]),
        (len(after) - 1) / max(1e-9, after[-1] - after[0]),
        1000 * statistics.median(steps),
        1000 * max(gaps),
        seconds,
    )


def median_of(growths: list[Growth], key: str) -> float:
    """Median over repeats of one part of the time."""
    return statistics.median(growth.seconds.get(key, 0.0) for growth in growths)
