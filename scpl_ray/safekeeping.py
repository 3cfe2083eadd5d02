"""What a running job keeps on storage, and where it goes on after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpl_ray.checkpoint_writer import CheckpointWriter
from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import Parts, Resumed
from scpl_ray.errors import ConfigError
from scpl_ray.run_checkpoints import Checkpoints
from scpl_ray.run_manifest import Saved
from scpl_ray.storage import Storage

FOLDER = "checkpoints"
_LAST_WRITE_S = 60.0


class Safekeeping:
    """One run's checkpoints and its journal of changes.

    Args:
        config: `fault_tolerance` and `name` are read.
        folder: of the run; checkpoints are in there where no storage is named.
        say: takes one line for the log.

    Raises:
        ConfigError: the storage cannot be used.
    """

    def __init__(self, config: Config, folder: Path, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        ft = config.fault_tolerance
        if ft.storage is None:
            self.storage = Storage(str(folder / FOLDER))
        else:
            self.storage = Storage(ft.storage, config.name)
        self.checkpoints = Checkpoints(self.storage, ft.keep, say, config.name)
        self.writer = CheckpointWriter(say)

    def begin(self, fresh: bool, overwrite: bool) -> None:
        """Makes sure that checkpoints can be written; a new run starts with none.

        Raises:
            ConfigError: the storage cannot be used, or holds another run of this name.
        """
        if not self.config.fault_tolerance.enabled:
            return
        named = self.config.fault_tolerance.storage is not None
        if named:
            self.storage.check()
        if not fresh:
            return
        if named and not overwrite and any(n.startswith("step-") for n in self.storage.names()):
            raise ConfigError(
                f"name: {self.config.name!r} is taken: {self.storage.where} holds its checkpoints. "
                "Go on with --resume, replace it with --overwrite, or choose another --name"
            )
        self.checkpoints.clear()

    def newest(self, at_most: int | None = None) -> Saved | None:
        """The newest whole checkpoint; see `Checkpoints.newest`."""
        saved = self.checkpoints.newest(at_most)
        if saved is not None:
            self.writer.last_step = saved.step
        return saved

    def again(self, at_most: int) -> Resumed | None:
        """Where all stages go back to while the job lives on."""
        saved = self.checkpoints.newest(at_most)
        return None if saved is None else resumed_of(saved)

    def keep(
        self, parts: Parts, config: Config, info: DataInfo, threads: int, run: dict[str, Any]
    ) -> None:
        """Writes a checkpoint beside the training.

        Args:
            parts: the stages as of one step.
            config: the network's config of then.
            info: of the data.
            threads: CPU threads of each stage.
            run: the driver's own state of then.
        """

        def write() -> None:
            states = parts.fetch()
            saved = Saved(
                config.name,
                parts.step,
                config,
                info,
                parts.specs,
                parts.parked,
                states,
                threads,
                run,
            )
            self.checkpoints.write(saved)
            parts.written()

        if parts.step == self.writer.last_step:
            return  # it is there: the run went on from it
        if not self.writer.offer(parts.step, write):
            self.say(f"the checkpoint of step {parts.step} is left out: one is still being written")

    def note(self, change: dict[str, Any]) -> None:
        """Writes a change of the stages down before it happens."""
        if not self.config.fault_tolerance.enabled:
            return
        try:
            self.checkpoints.note_change(change)
        except OSError as error:
            self.say(
                f"warning: the change before step {change['step']} could not be written down "
                f"({error}); a resume from before it would not make it"
            )

    def forget(self, key: str) -> None:
        """A change came to nothing."""
        if self.config.fault_tolerance.enabled:
            try:
                self.checkpoints.forget_change(key)
            except OSError as error:
                self.say(f"warning: {self.storage.where}: {error}")

    def noted(self, step: int) -> list[dict[str, Any]]:
        """The changes of this step and later ones that had been made before the crash."""
        return self.checkpoints.changes_from(step)

    def wait(self) -> None:
        """Waits for the checkpoint that is being written, so that another can be."""
        self.writer.wait(_LAST_WRITE_S)

    def close(self, clear: bool) -> None:
        """Ends; a finished run needs its checkpoints no more, except on a storage of their own."""
        self.writer.close(_LAST_WRITE_S)
        if clear and self.config.fault_tolerance.storage is None:
            try:
                self.checkpoints.clear()
                self.storage.remove("")
            except OSError as error:
                self.say(f"{self.storage.where} could not be removed: {error}")


def resumed_of(saved: Saved) -> Resumed:
    """A checkpoint as the engines take it."""
    states = list(saved.states)
    parked = list(zip(saved.parked, states[len(saved.specs) :], strict=True))
    return Resumed(saved.step, states[: len(saved.specs)], parked, saved.config)
