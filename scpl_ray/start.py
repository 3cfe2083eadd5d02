"""How a run begins: anew, from its newest checkpoint, or from a step that is to be seen again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from scpl_ray.auto_cut import cut_layers, is_open
from scpl_ray.config import Config, load_config
from scpl_ray.engine.base import Failure
from scpl_ray.errors import ConfigError, JobError
from scpl_ray.initial import Initial
from scpl_ray.job_checks import check_before
from scpl_ray.jobs.record import read_records, spoke_lately
from scpl_ray.run_folder import CONFIG, METRICS, RunFolder
from scpl_ray.run_manifest import Saved
from scpl_ray.run_state import check_same
from scpl_ray.safekeeping import Safekeeping


class Start:
    """Finds out with what a run begins; touches nothing.

    Args:
        config: the resolved config.
        overwrite: replace an existing run of that name.
        resume: go on with the run of that name.
        from_step: train anew from the newest checkpoint up to this step.

    Attributes:
        config: the config, with the threads of the run that goes on.
        folder: the run's.
        safe: its checkpoints.
        saved: the checkpoint from which it goes on; None: from the beginning.
        resumes: whether it goes on with the run of its name.
        until: the step after which it ends; None: all are trained.
        ended: the summary of a run that has nothing left to do.
        lines: what is worth saying.

    Raises:
        ConfigError: the name is taken, or the config is not the run's.
        CheckpointError: all checkpoints are damaged.
        JobError: the run is being trained now.
    """

    def __init__(
        self,
        config: Config,
        overwrite: bool = False,
        resume: bool = False,
        from_step: int | None = None,
    ) -> None:
        self.lines: list[str] = []
        self._say: Callable[[str], None] = self.lines.append
        self.saved: Saved | None = None
        self.ended: dict[str, Any] | None = None
        if resume and (overwrite or from_step is not None):
            other = "--overwrite" if overwrite else "--from-step"
            raise ConfigError(f"--resume and {other} exclude each other: choose one")
        if is_open(config):
            config = self._cut(config, overwrite, resume or from_step is not None)
        self.config = config
        self._source: Safekeeping | None = None
        if from_step is not None:
            self._find_step(config, from_step)
        self.until, self.resumes = from_step, resume
        self.folder = RunFolder(self.config, overwrite or from_step is not None, resume)
        self.safe = Safekeeping(self.config, self.folder.path, self.say)
        self._check_alone()
        if resume:
            self._resume()

    def say(self, line: str) -> None:
        """Says a line, as soon as somebody listens."""
        self._say(line)

    def listen(self, say: Callable[[str], None]) -> None:
        """Somebody listens from now on."""
        self._say = say
        for line in self.lines:
            say(line)

    def _cut(self, config: Config, overwrite: bool, goes_on: bool) -> Config:
        """Measures the layers; a run that goes on keeps the cut that it has."""
        folder = RunFolder(config, overwrite, goes_on)
        check_before(config)
        if goes_on and (folder.path / CONFIG).exists():
            return _cut_as(config, load_config(folder.path / CONFIG))
        if goes_on and (saved := Safekeeping(config, folder.path, self.say).newest()) is not None:
            return _cut_as(config, load_config(saved.run["config"]))
        config, line = cut_layers(config)
        self.say(line)
        return config

    def _check_alone(self) -> None:
        path = str(self.folder.path.resolve())
        for record in read_records():
            mine = record.folder == path or record.storage == self.safe.storage.where
            if record.running and mine and record.pid != os.getpid() and spoke_lately(record):
                raise JobError(
                    f"name: {self.config.name!r} is being trained now, by job {record.id} (process "
                    f"{record.pid} on {record.host}); wait for it, stop it (scpl-ray stop "
                    f"{record.id}), or choose another --name"
                )

    def _resume(self) -> None:
        summary = self.folder.summary()
        if summary is not None and summary.get("status") == "finished":
            self.ended = summary
            then = load_config(self.folder.path / CONFIG)
            check_same(self.config, {"config": then.model_dump(mode="json")}, then.name)
            return
        self.saved = self.safe.newest()
        if self.saved is None:
            self.say(f"no checkpoint of {self.config.name!r} yet: it starts at the beginning")
            return
        self._take(self.saved)
        total = f"goes on at step {self.saved.step}"
        self.say(f"{self.config.name!r} {total}, from {self.safe.storage.where}")
        if not (self.folder.path / METRICS).exists():
            self.say(f"{self.folder.path} has no {METRICS}: it begins with that step")

    def _take(self, saved: Saved) -> None:
        check_same(self.config, saved.run, saved.name)
        threads = self.config.resources.threads
        if threads != saved.threads:
            # Results are equal to the bit only with equal thread counts.
            resources = self.config.resources.model_copy(update={"threads": saved.threads})
            self.config = self.config.model_copy(update={"resources": resources})
            if threads is not None:
                self.say(
                    f"resources.threads: {threads} is left aside: the run has {saved.threads}, and "
                    "with others its numbers would differ"
                )

    def _find_step(self, config: Config, step: int) -> None:
        folder = RunFolder(config, resume=True)
        safe = Safekeeping(config, folder.path, self.say)
        if step < 0:
            raise ConfigError(f"--from-step: {step} is no step; give 0 or more")
        self._source = safe
        self.saved = safe.newest(at_most=step)
        if self.saved is not None:
            self._take(self.saved)
        begins = 0 if self.saved is None else self.saved.step
        self.say(f"to see step {step} of {config.name!r}: from its checkpoint of step {begins}")
        name = f"{config.name}-from-{step}"
        self.config = self.config.model_copy(update={"name": name})

    def tokenizer(self, initial: Initial | None) -> str | None:
        """The vocabulary to use, where it is not to be made."""
        if self.saved is not None:
            return self.saved.info.tokenizer or None
        return None if initial is None else initial.tokenizer

    def noted(self) -> list[dict[str, Any]]:
        """Changes of the stages after the checkpoint that had been made before the crash."""
        source = self._source or self.safe
        return source.noted(0 if self.saved is None else self.saved.step)

    def failures(self) -> list[Failure]:
        """The faults that the run had survived before."""
        known = {f.name for f in dataclasses.fields(Failure)}
        tree = [] if self.saved is None else self.saved.run["failures"]
        return [Failure(**{k: v for k, v in row.items() if k in known}) for row in tree]


def _cut_as(config: Config, then: Config) -> Config:
    return config.model_copy(update={"stages": then.stages, "replicas": then.replicas})
