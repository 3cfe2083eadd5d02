"""The loop over a run's work: what comes back from the stages is counted, logged and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from scpl_ray import schedule
from scpl_ray.config import Config
from scpl_ray.elastic.control import Control
from scpl_ray.engine.base import DataReady, Engine, Go, Parts
from scpl_ray.exits import ExitResult, fold
from scpl_ray.metrics import MetricsLog
from scpl_ray.report import Reporter
from scpl_ray.rounds import Rounds
from scpl_ray.stage_facts import ExitScore, StageStats


class Training:
    """One run's work, from the first step to the look at the test split.

    Args:
        config: the run's config.
        control: decides who joins and leaves.
        reporter: who listens.

    Attributes:
        steps: training steps done.
        samples: training samples seen.
        seconds: of training, those of before a resume too.
        skipped: batches that a stage left out because its loss was not finite.
        logged: bytes of the metrics log.
        validation: results of each exit after each epoch.
        until: the step after which training ends; None: the last.
        keep: is given the parts of each checkpoint.
    """

    def __init__(self, config: Config, control: Control, reporter: Reporter) -> None:
        self.config, self.control, self.reporter = config, control, reporter
        self.steps = 0
        self.samples = 0
        self.seconds = 0.0
        self.logged = 0
        self.until: int | None = None
        self.skipped: list[dict[str, int]] = []
        self.keep: Callable[[Parts], None] = lambda parts: None
        self.validation: dict[int, list[ExitResult]] = {}
        self._scores: list[ExitScore] = []

    def epochs(self, engine: Engine, ready: DataReady, log: MetricsLog) -> float:
        """Trains all epochs, or until a command stops it; returns seconds."""
        config = self.config.train
        work = schedule.training(
            config.epochs,
            ready.steps_per_epoch,
            ready.validation_batches,
            stash=config.select == "best" and ready.validation_batches > 0,
            first=self.steps,
        )
        before, start = self.seconds, time.perf_counter()
        rounds = self.config.rounds(ready.steps_per_epoch)
        for done in engine.run(work, partial(self._boundary, rounds)):
            self.control.done(done)
            if isinstance(done.work, schedule.Train):
                self.steps += 1
                self.samples += done.stats[0].samples // ready.info.views
                self._count_skipped(done.stats)
                log.step(done.work.epoch, done)
                self.reporter.step(done.work.epoch, done)
                if done.work.step == self.until:
                    self.reporter.info(f"step {self.until} passed without an error")
                    self.control.stop()
            elif isinstance(done.work, schedule.Evaluate):
                self._scores += done.scores
                if done.work.last:
                    self._evaluated(done.work, log)
                    self.control.evaluated(done.work.epoch, self.validation[done.work.epoch])
            elif isinstance(done.work, schedule.Stash):
                engine.keep_stash(self._best_epoch(), done.work.epoch)
            self.seconds = before + time.perf_counter() - start
            if done.parts is not None:
                self.logged = log.position()
                self.keep(done.parts)
        return self.seconds

    def _boundary(self, rounds: Rounds, work: schedule.Work) -> Go:
        if isinstance(work, schedule.Train) and not rounds.between(work.step):
            return Go.ON
        return self.control.boundary(work)

    def _count_skipped(self, stats: Sequence[StageStats]) -> None:
        for s in stats:
            if s.skipped:
                self.skipped.append({"stage": s.stage, "step": s.step})
                self.reporter.notice(
                    f"stage {s.stage} left out the batch of step {s.step}: its loss or gradient "
                    f"is not finite ({len(self.skipped)} so far)"
                )

    def last_checkpoint(self, engine: Engine, log: MetricsLog) -> None:
        """After the last step: a run that dies while it is judged need not train again."""
        if not self.config.fault_tolerance.enabled:
            return
        for done in engine.run([schedule.Snapshot(self.steps, durable=True)]):
            self.control.done(done)
            assert done.parts is not None
            self.logged = log.position()
            self.keep(done.parts)

    def _evaluated(self, work: schedule.Evaluate, log: MetricsLog) -> list[ExitResult]:
        exits, self._scores = fold(self._scores), []
        if work.split == "validation":
            self.validation[work.epoch] = exits
        log.evaluation(work.split, work.epoch, self.steps, exits)
        self.reporter.evaluated(work.split, work.epoch, exits)
        return exits

    def latest(self, epoch: int) -> list[ExitResult]:
        """The validation results of an epoch, or of the last one before it that has any."""
        known = [e for e in self.validation if e <= epoch]
        return self.validation[max(known)] if known else []

    def _best_epoch(self) -> int | None:
        """The epoch whose last exit was best on validation; the earliest among equals.

        Of the epochs with the stages of now: before a change it was another network.
        """
        epochs = [e for e in self.validation if e >= self.control.changes.epoch]
        rank = {e: (self.validation[e][-1].accuracy, -e) for e in epochs if self.validation[e]}
        return max(rank, key=rank.__getitem__, default=None)

    def select(self, engine: Engine, steps_per_epoch: int, stopped: bool) -> int:
        """Goes back to the best epoch, where that is asked for; returns the epoch kept."""
        last = max(0, self.steps - 1) // steps_per_epoch
        best = self._best_epoch()
        if stopped or self.config.train.select == "last" or best is None:
            return last
        engine.restore_stash(best)
        self.reporter.info(f"keeping the weights of epoch {best + 1} (best on validation)")
        return best

    def final(
        self, engine: Engine, ready: DataReady, epoch: int, log: MetricsLog
    ) -> dict[str, list[ExitResult]]:
        """Looks at the training samples once more, and at the test split for the only time."""
        limit = self.config.evaluate.train_samples
        splits = {"train": ready.train_batches, "test": ready.test_batches}
        results = {}
        for split, batches in splits.items():
            cap = limit if split == "train" else None
            for done in engine.run(schedule.evaluation(split, epoch, batches, cap)):
                self.control.done(done)
                self._scores += done.scores
                assert isinstance(done.work, schedule.Evaluate)
                if done.work.last:
                    results[split] = self._evaluated(done.work, log)
        return results
