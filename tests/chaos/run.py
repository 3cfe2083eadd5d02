"""One run: undisturbed, or with processes killed at random, and what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos.job import Job
from tests.chaos.progress import Progress, wrong_steps
from tests.chaos.stats import choose, gaps, longest_gap

POLL_S = 0.02
HANG_S = 120.0
END_S = 20.0  # for the processes of a job that ended by itself
END_AFTER_KILL_S = 90.0  # Ray's own agents outlive a killed driver for a while
LEAST_GAP = 10  # more steps than are in flight
AT_ONCE, LATE = 0.15, 0.2
STALL_S = 30.0


@dataclass
class Kill:
    """One killed process.

    Attributes:
        run: number of the run, from 1.
        kind: which kind of process.
        who: the kind, and the layer of a stage.
        pid: it.
        step: the newest finished step then; -1 before the first.
        at: seconds since 1970.
        after: "steps", "at once" (after the kill before), "late" (after the last step) or "time".
        next_s: until the next finished step; None if there was none.
        caught_up_s: until a step beyond `step` was finished.
        stall_s: the longest time without a step, until the next kill or for half a minute; what is
            in flight may still come in after a kill, and only then nothing.
        identical: whether its run ended as the undisturbed one.
    """

    run: int
    kind: str
    who: str
    pid: int
    step: int
    at: float
    after: str
    next_s: float | None = None
    caught_up_s: float | None = None
    stall_s: float | None = None
    identical: bool = False


@dataclass
class Outcome:
    """How a run went.

    Attributes:
        digests: of the weights; empty if it did not finish.
        steps: that it trained, by its summary.
        seconds: in all.
        kills: of its processes.
        failures: what its summary says of survived failures.
        problems: what is wrong; empty if nothing is.
    """

    digests: list[str] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    kills: list[Kill] = field(default_factory=list)
    failures: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tree(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Hung(Exception):
    """No step for too long."""


class Killer:
    """Runs a job to its end and kills its processes on the way.

    Args:
        job: not yet started.
        say: prints a line.
        hang_s: so long without a step is a hang.
    """

    def __init__(self, job: Job, say: Callable[[str], None], hang_s: float = HANG_S) -> None:
        self.job, self.say, self.hang_s = job, say, hang_s
        self.progress = Progress(job.metrics)
        self.outcome = Outcome()
        self._moved = time.monotonic()
        self._run = 0

    def undisturbed(self) -> Outcome:
        """Lets the job run."""
        return self._all(lambda: None, resume=False)

    def disturbed(
        self, run: int, steps: int, kills: int, targets: Sequence[str], seed: str, in_turn: bool
    ) -> Outcome:
        """Kills while it runs.

        Args:
            run: its number, for the records.
            steps: of the whole run.
            kills: how many.
            targets: kinds, or "any".
            seed: of all chance.
            in_turn: kill one of each of the targets in turn, none at once and none late.
        """
        draw = random.Random(seed)
        self._run = run

        def plan() -> None:
            until_part = (
                0.7 if in_turn else 0.92
            )  # in turn: none may be missed for the run has ended
            for number, gap in enumerate(gaps(steps, kills, LEAST_GAP, draw, until_part)):
                wanted = [targets[number % len(targets)]] if in_turn else targets
                chance, phase = draw.random(), draw.uniform(0.0, 0.3)
                how = "steps"
                if not in_turn and number and chance < AT_ONCE:
                    how = "at once"
                elif not in_turn and number == kills - 1 and chance > 1 - LATE:
                    how = "late"
                goal = len(self.progress.steps) + gap
                while how == "steps" and len(self.progress.steps) < goal:
                    if not self.look():
                        return
                while how == "late" and self.progress.last < steps - 1:
                    if not self.look():
                        return
                until = time.monotonic() + (0 if how == "at once" else phase)
                while time.monotonic() < until:
                    if not self.look():
                        return
                if not self.kill(wanted, draw, how):
                    return

        return self._all(plan, resume=True)

    def kill(self, targets: Sequence[str], draw: random.Random, how: str) -> bool:
        """Kills one, as soon as one is there; starts a driver again.

        Returns:
            Whether one was killed before the job ended.
        """
        while (drawn := choose(self.job.targets(), targets, draw)) is None:
            if not self.look():
                return False
        kind, target = drawn
        if not self.look():
            return False
        step, at = self.progress.last, time.time()
        target.process.kill()
        if kind == "driver":
            assert self.job.driver is not None
            self.job.driver.wait()
            self.job.start(resume=True)
        self._record(Kill(self._run, kind, target.words, target.process.pid, step, at, how))
        return True

    def _record(self, kill: Kill) -> None:
        self.outcome.kills.append(kill)
        note = "" if kill.after in ("steps", "time") else f", {kill.after}"
        self.say(f"run {kill.run}: killed {kill.who} ({kill.pid}) after step {kill.step}{note}")

    def _all(self, disturb: Callable[[], None], resume: bool) -> Outcome:
        outcome, begun = self.outcome, time.monotonic()
        self.job.start(resume)
        self._moved = time.monotonic()
        try:
            disturb()
            while self.look():
                pass
            assert self.job.driver is not None
            if self.job.driver.returncode:
                outcome.problems.append(f"exit code {self.job.driver.returncode}")
        except Hung as hung:
            outcome.problems.append(str(hung))
            self.job.end()
        except BaseException:
            self.job.end()
            raise
        finally:
            outcome.seconds = round(time.monotonic() - begun, 1)
        self._judge()
        self.job.end()
        return outcome

    def look(self) -> bool:
        """Waits a moment and looks at the job; whether the driver lives.

        Raises:
            Hung: there was no step for too long.
        """
        time.sleep(POLL_S)
        assert self.job.driver is not None
        ended = self.job.driver.poll() is not None
        if self.progress.poll():
            self._moved = time.monotonic()
        if not ended and time.monotonic() - self._moved > self.hang_s:
            raise Hung(f"no step for {self.hang_s:g} s after step {self.progress.last}")
        return not ended

    def _judge(self) -> None:
        outcome = self.outcome
        summary = self.job.summary()
        outcome.steps = summary.get("steps", 0)
        outcome.digests = summary.get("weights_sha256", [])
        outcome.failures = summary.get("failures", [])
        if summary.get("status") != "finished":
            outcome.problems.append(f"status {summary.get('status', 'unknown: no summary')}")
        else:
            wrong = wrong_steps(self.job.metrics, outcome.steps)
            outcome.problems += [wrong] if wrong else []
        restarted = any(kill.kind == "driver" for kill in outcome.kills)
        left = self.job.leftovers(END_AFTER_KILL_S if restarted else END_S)
        outcome.problems += [f"left behind: {thing}" for thing in left]
        measure(outcome.kills, self.progress)


def measure(kills: list[Kill], progress: Progress) -> None:
    """Works out how long the steps were interrupted by each kill."""
    times = [step.finished_at for step in progress.steps]
    for number, kill in enumerate(kills):
        later = [s for s in progress.steps if s.finished_at > kill.at]
        if not later:
            continue
        kill.next_s = min(s.finished_at for s in later) - kill.at
        beyond = [s.finished_at for s in later if s.step > kill.step]
        kill.caught_up_s = min(beyond) - kill.at if beyond else None
        end = kills[number + 1].at if number + 1 < len(kills) else max(times)
        end = max(kill.at, min(end, max(times), kill.at + kill.next_s + STALL_S))
        kill.stall_s = longest_gap(times, kill.at, end)
