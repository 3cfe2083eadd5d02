"""A job over time: config -> data -> stages -> pipeline -> run folder."""

from __future__ import annotations

import dataclasses
import shlex
import time
from typing import Any

from scpl_ray.callbacks.listener import Callbacks
from scpl_ray.callbacks.registry import make_callbacks
from scpl_ray.checkpoint import save_checkpoint
from scpl_ray.elastic.control import Control
from scpl_ray.elastic.plan import most_stages, planned_changes
from scpl_ray.elastic.request import request_of
from scpl_ray.engine.base import Engine, Parts
from scpl_ray.errors import NonFiniteLossError, RunError, StageError
from scpl_ray.initial import read_initial
from scpl_ray.job_checks import (
    check_before,
    check_data,
    check_elastic,
    check_until,
    make_vectors,
)
from scpl_ray.jobs.board import Board
from scpl_ray.jobs.record import new_record
from scpl_ray.metrics import MetricsLog
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.report import Plan, Reporter, Reporters
from scpl_ray.run_folder import CHECKPOINT, CONFIG, LOG
from scpl_ray.run_state import capture, recall
from scpl_ray.safekeeping import resumed_of
from scpl_ray.stage import plan_stages
from scpl_ray.start import Start
from scpl_ray.summary import Outcome, summarize
from scpl_ray.trained import TrainedRun
from scpl_ray.training import Training
from scpl_ray.versions import versions


class Job:
    """One run, from its config to its summary.

    Args:
        start: what it begins with.
        reporter: who listens.
        debug: let Ray and the actors print.
        job_id: how others address it; default: the name and four digits.
    """

    def __init__(
        self, start: Start, reporter: Reporter, debug: bool = False, job_id: str | None = None
    ) -> None:
        self.begins, self.config, self.folder = start, start.config, start.folder
        self.debug = debug
        config, engine = self.config, self.config.pipeline.engine
        callbacks = make_callbacks(config.callbacks)
        self.board = Board(
            new_record(config.name, self.folder.path, engine, job_id, start.safe.storage.where)
        )
        self.callbacks = Callbacks(callbacks, config, self.folder.path, self.board.record.id)
        listeners = [reporter, self.board, self.callbacks]
        if config.output.trace:
            from scpl_ray.trace import Trace

            listeners.append(Trace(self.folder.path))
        self.reporter = Reporters(*listeners)
        self.callbacks.notify, self.callbacks.say = self.reporter.notice, self.reporter.info
        start.listen(self.reporter.info)
        self.safe = start.safe
        self.control = Control(
            config,
            self.reporter.info,
            self._stages_changed,
            self.safe.note,
            self.safe.forget,
        )
        self.board.requests = self.control.views
        self.training = Training(config, self.control, self.reporter)
        self.training.keep = self._keep

    def train(self) -> TrainedRun:
        """Does it all; on failure or Ctrl-C nothing half-written and no process is left."""
        engine: Engine | None = None
        post: Any = None
        status, error = "failed", ""
        try:
            check_before(self.config)
            self.safe.begin(not self.begins.resumes, self.folder.overwrite)
            engine = self._engine()
            post = self._post(engine)
            run = self._train(engine)
            status = run.summary["status"]
            return run
        except BaseException as problem:
            status = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
            self._say_how_to_see(problem)
            error = "" if status == "interrupted" else str(problem)
            self._unfinished(status, error)
            raise
        finally:
            self.callbacks.outcome = status, self.folder.summary() or {}
            self.reporter.close()
            self.control.finish()
            if post is not None:
                post.close()
            if engine is not None:
                engine.close()
            self.safe.close(clear=status == "finished")
            self.board.update(status=status, error=error, ended_at=time.time())

    def _say_how_to_see(self, problem: BaseException) -> None:
        if not isinstance(problem, StageError | NonFiniteLossError) or problem.step < 0:
            return
        if self.begins.until is None:
            config = shlex.quote(str(self.folder.path / CONFIG))
            problem.hint = (
                f". See it again in one process: scpl-ray train {config} --engine local "
                f"--from-step {problem.step}"
            )

    def _engine(self) -> Engine:
        if self.config.pipeline.engine == "local":
            from scpl_ray.engine.local import LocalEngine

            if self.config.output.prometheus is True:
                self.reporter.notice(
                    "output.prometheus has no effect with pipeline.engine=local: Ray exports them"
                )
            return LocalEngine(self.config)
        from scpl_ray.engine.pipeline import RayEngine

        self.reporter.info("starting Ray")
        engine = RayEngine(self.config, self.debug, self.reporter.info)
        engine.recovery.saved = self.safe.again
        self.callbacks.in_flight = lambda: len(engine.chain.flying)
        if engine.exports:
            from scpl_ray.callbacks.to_prometheus import PrometheusCallback

            self.callbacks.add("prometheus", PrometheusCallback())
        return engine

    def _post(self, engine: Engine) -> Any:
        """Opens the job's mailbox, where there is a Ray to hold it."""
        if self.config.pipeline.engine == "local":
            return None
        from scpl_ray.engine.cluster import own_address
        from scpl_ray.jobs.post import Post

        self.board.update(address=own_address())
        card = dataclasses.asdict(self.board.record)
        return Post(card, self.board.view, self._take, self.control.advance)

    def _take(self, command: dict[str, Any]) -> None:
        """Does what someone asks for; called by the mailbox's thread."""
        if command["kind"] == "stop":
            self.board.phase = "stopping"
            self.reporter.info("stop: asked for by a command")
            self.control.stop()
            return
        try:
            self.control.handle(request_of(command))
        except Exception as error:
            # The sender may be of another version; its command must not end the mailbox's thread.
            self.reporter.info(f"a command was not understood: {type(error).__name__}: {error}")

    def _keep(self, parts: Parts) -> None:
        """Writes a checkpoint; called when all work before it is done and counted."""
        engine, step = self._running, parts.step
        run = capture(self.config, self.training, self.control.changes, step, engine.failures)
        config = self.control.config_before(step)
        self.safe.keep(parts, config, self._ready.info, engine.threads, run)

    def _stages_changed(self) -> None:
        self.reporter.changed(self._plan())

    def _plan(self) -> Plan:
        config, info, engine = self.config, self._ready.info, self._running
        title = f"{config.method}, {config.model.factory or config.model.kind}, {info.name}"
        stages = [*engine.specs, *engine.parked]
        per_epoch = self._ready.steps_per_epoch
        epochs, parked = config.train.epochs, len(engine.parked)
        return Plan(config.name, title, stages, epochs, per_epoch, parked, info.views)

    def _train(self, engine: Engine) -> TrainedRun:
        config, report = self.config, self.reporter
        saved = self.begins.saved
        initial = read_initial(config) if saved is None else None
        self.board.phase = "preparing data"
        report.info("preparing data")
        ready = engine.prepare_data(self.begins.tokenizer(initial))
        self._ready, self._running = ready, engine
        info = ready.info
        if info.notice:
            report.notice(info.notice)
        sizes = ", ".join(f"{n:,} {split}" for split, n in info.sizes.items())
        report.info(f"data: {info.name}, {info.num_classes} classes, {sizes}")
        specs = plan_stages(config, partition(build_model(config, info).names, config.stages))
        start = config.elastic.start_stages or len(specs)
        first = plan_stages(config, [spec.layers for spec in specs[:start]])
        self.training.until = check_until(self.begins.until, config, ready.steps_per_epoch)
        never = check_elastic(config, ready.steps_per_epoch, start)
        for warning in [*check_data(config, ready, len(specs)), *never]:
            report.notice(warning)
        taken = None if initial is None else initial.report(config, info, first)
        if taken is not None:
            report.info(f"from {taken['run']}: {', '.join(taken['taken'])}")
            if taken["new"]:
                report.notice(f"not in {taken['run']}, so new: {', '.join(taken['new'])}")
        self.board.phase = "starting stages"
        most = most_stages(start, planned_changes(config.elastic, ready.steps_per_epoch))
        weights = None if initial is None else initial.weights()
        vectors = make_vectors(config, info)
        resumed, waiting = None, specs[start:]
        if saved is None:
            self.control.recall(0, self.control.changes.before(0), self.begins.noted(), config)
        else:
            resumed = resumed_of(saved)
            recall(saved.run, self.training)
            noted = self.begins.noted()
            self.control.recall(saved.step, saved.run["changes"], noted, saved.config)
            self.control.learned(self.training.validation)
            there = {name for spec in [*saved.specs, *saved.parked] for name in spec.layers}
            first, waiting = saved.specs, [s for s in specs if not there & set(s.layers)]
        for line in engine.start(first, vectors, max(most, len(specs)), weights, resumed):
            report.info(line)
        engine.failures.extend(self.begins.failures())
        self.callbacks.restarts = lambda: len(engine.failures)
        self.callbacks.first_step = 0 if saved is None else saved.step
        self.board.failures = lambda: list(engine.failures)
        engine.marks.may_write = lambda: not self.safe.writer.busy
        self.control.begin(engine, info, ready.steps_per_epoch, waiting)
        if self.control.stopping:
            raise RunError("stopped by a command before the first step; nothing was trained")
        self.folder.make()
        self.board.keep_log(self.folder.path / LOG, append=saved is not None)
        report.started(self._plan())
        training = self.training
        at = None if saved is None else (training.logged, saved.step)
        log = MetricsLog(self.folder.path, config.output.tensorboard, at)
        try:
            seconds = training.epochs(engine, ready, log)
            stopped = self.control.stopping
            self.control.finish()
            self.safe.wait()
            training.last_checkpoint(engine, log)
            self.board.phase = "stopping" if stopped else "evaluating"
            selected = training.select(engine, ready.steps_per_epoch, stopped)
            final = {} if stopped else training.final(engine, ready, selected, log)
        finally:
            log.close()
        stages, own = [*engine.specs, *engine.parked], self.control.config
        digests = save_checkpoint(
            self.folder.path / CHECKPOINT, own, info, stages, engine.states(), engine.threads
        )
        changes = self.control.changes
        outcome = Outcome(
            "stopped" if stopped else "finished",
            training.steps,
            training.samples,
            seconds,
            selected,
            final | {"validation": training.latest(selected)},
            digests,
            engine.threads,
            changes.grown,
            changes.shrunk,
            changes.given_up,
            taken,
            engine.failures,
            training.skipped,
        )
        summary = summarize(config, ready, stages, outcome)
        self.folder.write_summary(summary)
        return TrainedRun(self.folder.path, summary)

    def _unfinished(self, status: str, error: str) -> None:
        """Keeps what a run of some steps has measured, says how it ended; removes the rest."""
        if self.training.steps == 0:
            self.folder.remove()
            return
        if self.begins.saved is not None or self.safe.writer.last_step is not None:
            self.reporter.info("scpl-ray train ... --resume goes on from the newest checkpoint")
        changes = self.control.changes
        self.folder.write_summary(
            {
                "name": self.config.name,
                "status": status,
                "error": error,
                "steps": self.training.steps,
                "grown": changes.grown,
                "shrunk": changes.shrunk,
                "given_up": changes.given_up,
                "versions": versions(),
            }
        )
