"""Checkpoints of a running job: what it goes on from after a crash.

    step-00000120/stage-1.safetensors             weights and buffers of stage 1
                 /stage-1.optimizer.safetensors   what its optimizer remembers
                 /stage-1.stash-3.safetensors     its weights at the end of epoch 3
                 /tokenizer.json                  text: the vocabulary
                 /manifest.json                   last: a folder with one is complete
    changes/                                      see scpl_ray/journal.py

Each file's size and checksum are in the manifest, and the manifest's own. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from scpl_ray.engine.base import StageState
from scpl_ray.errors import CheckpointError
from scpl_ray.journal import FOLDER, Journal
from scpl_ray.manifest import (
    MANIFEST,
    TOKENIZER,
    Damaged,
    checked,
    describe,
    described,
    optimizer_file,
    read_tensors,
    sha256,
    stash_file,
    weights_file,
)
from scpl_ray.run_manifest import (
    FORMAT,
    KIND,
    FileEntry,
    RunManifest,
    Saved,
    StageEntry,
    check_steps,
    first_error,
    read_manifest,
    stage_entry,
)
from scpl_ray.storage import Storage, reason


class Checkpoints:
    """The checkpoints of one run.

    Args:
        storage: the run's own folder.
        keep: how many complete ones stay.
        say: told what was skipped, found damaged or removed.
        name: the run; checkpoints of another are refused. None: not looked at.
    """

    def __init__(
        self, storage: Storage, keep: int, say: Callable[[str], None], name: str | None = None
    ) -> None:
        self.storage, self.keep, self.say, self.name = storage, keep, say, name
        self._journal = Journal(storage)

    def write(self, saved: Saved) -> None:
        """Writes a checkpoint, then removes the ones that it makes superfluous.

        Raises:
            OSError: it was not written; what there is of it has been removed.
        """
        folder = _folder(saved.step)
        # First, so that at no time there is a manifest beside another checkpoint's files.
        self._drop(folder)
        try:
            self.storage.write(f"{folder}/{MANIFEST}", self._write_parts(folder, saved).dump())
        except BaseException:
            with contextlib.suppress(OSError):
                self._drop(folder)
            raise
        try:
            self._prune(saved.step)
        except OSError as error:
            self.say(f"checkpoints before step {saved.step} were not removed: {reason(error)}")

    def newest(self, at_most: int | None = None) -> Saved | None:
        """Finds the newest checkpoint that is complete and undamaged, and verifies all of it.

        Args:
            at_most: only of this step or an earlier one.

        Returns:
            The checkpoint; None if there is none.

        Raises:
            CheckpointError: there are some, and all of them are damaged or another run's.
        """
        try:
            steps = [s for s in self._steps() if at_most is None or s <= at_most]
            complete = [s for s in steps if self._complete(s)]
        except OSError as error:
            raise CheckpointError(
                f"{self.storage.where}: checkpoints cannot be looked at: {reason(error)}"
            ) from error
        for step in steps:
            if step not in complete:
                self.say(f"{_folder(step)}: not complete (no manifest): skipped")
        refused: list[str] = []
        for position, step in enumerate(complete):
            try:
                return self._verified(step)
            except Damaged as error:
                refused.append(f"{_folder(step)}/{error}")
                if position + 1 < len(complete):
                    self.say(
                        f"{refused[-1]}; the checkpoint before it is used "
                        f"({_folder(complete[position + 1])})"
                    )
        if not refused:
            return None
        raise CheckpointError(
            f"{self.storage.where}: no checkpoint can be used:\n  "
            + "\n  ".join(refused)
            + "\nRestore one of them from a copy, or train from the start with --overwrite"
        )

    def note_change(self, change: dict[str, Any]) -> None:
        """Writes a change of the stages into the journal.

        Args:
            change: plain JSON with at least `step` (int) and `id` (str).
        """
        self._journal.note(change)

    def forget_change(self, key: str) -> None:
        """Removes a change from the journal by its `id`."""
        self._journal.forget(key)

    def changes_from(self, step: int) -> list[dict[str, Any]]:
        """Changes of this step and later ones, by step and then in the order noted.

        Raises:
            CheckpointError: an entry is damaged.
        """
        try:
            return self._journal.since(step)
        except CheckpointError as error:
            self.say(str(error))
            raise

    def clear(self) -> None:
        """Removes all checkpoints and the journal."""
        for step in reversed(self._steps()):
            self._drop(_folder(step))
        self.storage.remove(FOLDER)

    def _steps(self) -> list[int]:
        """Steps of all checkpoint folders, complete or not, the newest first."""
        found = (re.fullmatch(r"step-(\d{8,})", name) for name in self.storage.names())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _complete(self, step: int) -> bool:
        return self.storage.exists(f"{_folder(step)}/{MANIFEST}")

    def _drop(self, folder: str) -> None:
        # The manifest first: cut short here, the rest is incomplete and not damaged.
        self.storage.remove(f"{folder}/{MANIFEST}")
        self.storage.remove(folder)

    def _prune(self, newest: int) -> None:
        complete = 0
        for step in self._steps():
            if step > newest:
                self.say(f"{_folder(step)}: removed: the run went back behind it")
                self._drop(_folder(step))
            elif complete < self.keep and self._complete(step):
                complete += 1
            else:
                self._drop(_folder(step))

    def _write_parts(self, folder: str, saved: Saved) -> RunManifest:
        files: dict[str, FileEntry] = {}
        stages: list[StageEntry] = []

        def put(name: str, content: bytes) -> None:
            self.storage.write(f"{folder}/{name}", content)
            files[name] = FileEntry(size=len(content), sha256=sha256(content))

        states = iter(saved.states)
        for position, spec in enumerate([*saved.specs, *saved.parked]):
            # Not zip: it would hold on to the first state, and one may fill the memory.
            state = next(states, None)
            if state is None:
                raise ValueError(f"there is no state of stage {spec.number}")
            stages.append(stage_entry(spec, state, position >= len(saved.specs)))
            check_steps(saved.step, stages[-1:])
            put(weights_file(spec.number), state.weights)
            put(optimizer_file(spec.number), state.optimizer)
            for epoch in state.stash:
                put(stash_file(spec.number, epoch), state.stash[epoch])
            del state
        if next(states, None) is not None:
            raise ValueError("there are more states than stages")
        if saved.info.kind == "text":
            put(TOKENIZER, saved.info.tokenizer.encode())
        return RunManifest(
            kind=KIND,
            format=FORMAT,
            name=saved.name,
            step=saved.step,
            stages=stages,
            files=files,
            run=saved.run,
            **describe(saved.config, saved.info, saved.threads),
        )

    def _verified(self, step: int) -> Saved:
        manifest = read_manifest(self._read(step, MANIFEST), step, self.name)
        try:
            tokenizer = ""
            if TOKENIZER in manifest.files:
                tokenizer = self._part(manifest, TOKENIZER).decode()
            config, info, threads = described(manifest.model_dump(), tokenizer)
        except Damaged:
            raise
        except ValidationError as error:
            raise Damaged(MANIFEST, f"config: {first_error(error)}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(
                MANIFEST, f"written by another version ({type(error).__name__}: {error})"
            ) from error
        for name, entry in manifest.files.items():
            if name != TOKENIZER:
                read_tensors(self._part(manifest, name), entry.sha256, name)
        return Saved(
            name=manifest.name,
            step=step,
            config=config,
            info=info,
            specs=[s.spec for s in manifest.stages if not s.parked],
            parked=[s.spec for s in manifest.stages if s.parked],
            states=_States(self, manifest),
            threads=threads,
            run=manifest.run,
        )

    def _part(self, manifest: RunManifest, name: str) -> bytes:
        entry, content = manifest.files[name], self._read(manifest.step, name)
        if len(content) != entry.size:
            raise Damaged(name, f"{len(content)} bytes, {entry.size} in the manifest: not whole")
        return checked(content, entry.sha256, name)

    def _read(self, step: int, name: str) -> bytes:
        try:
            return self.storage.read(f"{_folder(step)}/{name}")
        except OSError as error:
            raise Damaged(name, f"cannot be read: {reason(error)}") from error


@dataclass(frozen=True)
class _States:
    """States of a checkpoint's stages, read one at a time."""

    checkpoints: Checkpoints
    manifest: RunManifest

    def __iter__(self) -> Iterator[StageState]:
        for stage in self.manifest.stages:
            yield self._state(stage)

    def _state(self, stage: StageEntry) -> StageState:
        def part(name: str) -> bytes:
            try:
                return self.checkpoints._part(self.manifest, name)
            except Damaged as error:
                raise CheckpointError(
                    f"{self.checkpoints.storage.where}/{_folder(self.manifest.step)}/{error}; it "
                    "was whole a moment ago: something else writes there"
                ) from error

        return StageState(
            part(weights_file(stage.number)),
            part(optimizer_file(stage.number)),
            stage.weights_sha256,
            stage.next_step,
            {epoch: part(stash_file(stage.number, epoch)) for epoch in stage.stash},
        )


def _folder(step: int) -> str:
    return f"step-{step:08d}"
