"""A job over time: config -> data -> stages -> pipeline -> run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scpl_ray import schedule
from scpl_ray.checkpoint import save_checkpoint
from scpl_ray.config import Config, load_config
from scpl_ray.engine.base import DataReady, Engine
from scpl_ray.evaluate import ExitResult, fold
from scpl_ray.job_checks import check_before, check_data, make_vectors
from scpl_ray.metrics import MetricsLog
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.report import Plan, Reporter
from scpl_ray.run_folder import CHECKPOINT, RunFolder
from scpl_ray.stage import ExitScore, plan_stages
from scpl_ray.stage_module import StageSpec
from scpl_ray.versions import versions


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        dir: its folder.
        summary: what summary.json holds.
    """

    dir: Path
    summary: dict[str, Any]


def train(
    config: str | Path | dict[str, Any] | Config | None = None,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    debug: bool = False,
) -> TrainedRun:
    """Trains a network layer-parallel and writes its run folder.

    Args:
        config: a YAML file, a dict, a `Config`, or None for the defaults.
        overrides: dotted `key=value` pairs.
        name: the run's name, in place of the config's.
        overwrite: replace an existing run of that name.
        reporter: who listens; default: plain lines on standard output.
        debug: let Ray and the actors print.

    Returns:
        The finished run.

    Raises:
        UserError: config, data, resources or name cannot be used.
        RunError: the run failed.
    """
    from scpl_ray.report import PlainReporter

    extra = [] if name is None else [f"name={name}"]
    resolved = load_config(config, [*overrides, *extra])
    return Job(resolved, overwrite, reporter or PlainReporter(), debug).train()


class Job:
    """One run, from its config to its summary.

    Args:
        config: the resolved config.
        overwrite: replace an existing run of that name.
        reporter: who listens.
        debug: let Ray and the actors print.
    """

    def __init__(self, config: Config, overwrite: bool, reporter: Reporter, debug: bool) -> None:
        self.config, self.reporter, self.debug = config, reporter, debug
        self.folder = RunFolder(config, overwrite)
        self.steps = 0
        self.validation: dict[int, list[ExitResult]] = {}
        self._scores: list[ExitScore] = []

    def train(self) -> TrainedRun:
        """Does it all; on failure or Ctrl-C nothing half-written and no process is left."""
        check_before(self.config)
        engine: Engine | None = None
        try:
            engine = self._engine()
            return self._train(engine)
        except BaseException as error:
            self._unfinished(error)
            raise
        finally:
            self.reporter.close()
            if engine is not None:
                engine.close()

    def _engine(self) -> Engine:
        if self.config.pipeline.engine == "local":
            from scpl_ray.engine.local import LocalEngine

            return LocalEngine(self.config)
        from scpl_ray.engine.pipeline import RayEngine

        self.reporter.info("starting Ray")
        return RayEngine(self.config, self.debug)

    def _train(self, engine: Engine) -> TrainedRun:
        config, report = self.config, self.reporter
        report.info("preparing data")
        ready = engine.prepare_data()
        info = ready.info
        if info.notice:
            report.notice(info.notice)
        sizes = ", ".join(f"{n:,} {split}" for split, n in info.sizes.items())
        report.info(f"data: {info.name}, {info.num_classes} classes, {sizes}")
        model = build_model(config, info)
        specs = plan_stages(config, partition(model.names, config.stages))
        for warning in check_data(config, ready, len(specs)):
            report.notice(warning)
        for line in engine.start(specs, make_vectors(config, info)):
            report.info(line)
        self.folder.make()
        name = config.model.factory or config.model.kind
        title = f"{config.method}, {name}, {info.name}"
        report.started(Plan(config.name, title, specs, config.train.epochs, ready.steps_per_epoch))
        log = MetricsLog(self.folder.path, config.output.tensorboard)
        try:
            seconds = self._epochs(engine, ready, log)
            selected = self._select(engine)
            final = self._final(engine, ready, selected, log)
        finally:
            log.close()
        digests = save_checkpoint(
            self.folder.path / CHECKPOINT, config, info, specs, engine.states(), engine.threads
        )
        summary = self._summary(ready, specs, seconds, selected, final, digests, engine.threads)
        self.folder.write_summary(summary)
        return TrainedRun(self.folder.path, summary)

    def _epochs(self, engine: Engine, ready: DataReady, log: MetricsLog) -> float:
        config = self.config.train
        work = schedule.training(
            config.epochs,
            ready.steps_per_epoch,
            ready.validation_batches,
            stash=config.select == "best" and ready.validation_batches > 0,
        )
        start = time.perf_counter()
        for done in engine.run(work):
            if isinstance(done.work, schedule.Train):
                self.steps += 1
                log.step(done.work.epoch, done)
                self.reporter.step(done.work.epoch, done)
            elif isinstance(done.work, schedule.Evaluate):
                self._scores += done.scores
                if done.work.last:
                    self._evaluated(done.work, log)
            else:
                engine.keep_stash(self._best_epoch())
        return time.perf_counter() - start

    def _evaluated(self, work: schedule.Evaluate, log: MetricsLog) -> list[ExitResult]:
        exits, self._scores = fold(self._scores), []
        if work.split == "validation":
            self.validation[work.epoch] = exits
        log.evaluation(work.split, work.epoch, self.steps, exits)
        self.reporter.evaluated(work.split, work.epoch, exits)
        return exits

    def _best_epoch(self) -> int:
        """The epoch whose last exit was best on validation; the earliest among equals."""
        return max(self.validation, key=lambda e: (self.validation[e][-1].accuracy, -e))

    def _select(self, engine: Engine) -> int:
        last = self.config.train.epochs - 1
        if self.config.train.select == "last" or not self.validation:
            return last
        best = self._best_epoch()
        engine.keep_stash(best, restore=True)
        self.reporter.info(f"keeping the weights of epoch {best + 1} (best on validation)")
        return best

    def _final(
        self, engine: Engine, ready: DataReady, epoch: int, log: MetricsLog
    ) -> dict[str, list[ExitResult]]:
        """Looks at the training samples once more, and at the test split for the only time."""
        limit = self.config.evaluate.train_samples
        splits = {"train": ready.train_batches, "test": ready.test_batches}
        results = {}
        for split, batches in splits.items():
            cap = limit if split == "train" else None
            for done in engine.run(schedule.evaluation(split, epoch, batches, cap)):
                self._scores += done.scores
                assert isinstance(done.work, schedule.Evaluate)
                if done.work.last:
                    results[split] = self._evaluated(done.work, log)
        return results

    def _summary(
        self,
        ready: DataReady,
        specs: list[StageSpec],
        seconds: float,
        selected: int,
        final: dict[str, list[ExitResult]],
        digests: list[str],
        threads: int,
    ) -> dict[str, Any]:
        config, info = self.config, ready.info
        by_split = {s: {e.stage: e for e in exits} for s, exits in final.items()}
        by_split["validation"] = {e.stage: e for e in self.validation.get(selected, [])}
        exits = []
        for spec in specs:
            if spec.with_exit:
                row: dict[str, Any] = {"stage": spec.number}
                for split in ("train", "validation", "test"):
                    result = by_split.get(split, {}).get(spec.number)
                    row[f"{split}_accuracy"] = None if result is None else result.accuracy
                test = by_split.get("test", {}).get(spec.number)
                exits.append({**row, "test_loss": None if test is None else test.loss})
        trained = info.sizes["train"]
        if config.train.drop_last:
            trained = ready.steps_per_epoch * config.train.batch_size
        return {
            "name": config.name,
            "status": "finished",
            "method": config.method,
            "engine": config.pipeline.engine,
            "stages": [list(spec.layers) for spec in specs],
            "steps": self.steps,
            "epochs": config.train.epochs,
            "selected_epoch": selected + 1,
            "train_seconds": round(seconds, 3),
            "samples_per_second": round(trained * config.train.epochs / seconds, 1),
            "exits": exits,
            "weights_sha256": digests,
            "data": {
                "name": info.name,
                "requested": info.requested,
                "source": info.source,
                "notice": info.notice,
                "classes": info.num_classes,
                "train": info.sizes["train"],
                "validation": info.sizes["validation"],
                "test": info.sizes["test"],
                "dropped": sum(ready.dropped.values()),
                "train_evaluated": min(info.sizes["train"], config.evaluate.train_samples),
            },
            "seed": config.seed,
            "threads_per_stage": threads,
            "versions": versions(),
        }

    def _unfinished(self, error: BaseException) -> None:
        """Keeps what a run of some steps has measured, says how it ended; removes the rest."""
        if self.steps == 0:
            self.folder.remove()
            return
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.folder.write_summary(
            {
                "name": self.config.name,
                "status": status,
                "error": "" if status == "interrupted" else str(error),
                "steps": self.steps,
                "versions": versions(),
            }
        )
