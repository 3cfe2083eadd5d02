"""What a running job's checkpoint holds, and its manifest: that nothing of it was changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import StageState
from scpl_ray.manifest import (
    MANIFEST,
    TOKENIZER,
    Damaged,
    optimizer_file,
    read_tree,
    sha256,
    stash_file,
    weights_file,
)
from scpl_ray.stage_facts import StageSpec

KIND, FORMAT = "scpl-ray checkpoint of a running job", 1
CHECKSUM = "manifest_sha256"


@dataclass(frozen=True)
class Saved:
    """All of a run between two steps.

    Attributes:
        name: of the run.
        step: training steps done; all training stages expect this one next.
        config: of the network as it is now, with the layers that joined.
        info: of the data, with the vocabulary.
        specs: stages that train.
        parked: stages that have left and only evaluate.
        states: of `specs`, then of `parked`. Read from a checkpoint, they are loaded one at a
            time, anew in each pass.
        threads: CPU threads of each stage.
        run: what the driver keeps beside the stages: plain JSON.
    """

    name: str
    step: int
    config: Config
    info: DataInfo
    specs: list[StageSpec]
    parked: list[StageSpec]
    states: Iterable[StageState]
    threads: int
    run: dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class FileEntry(_Strict):
    """A file of the checkpoint."""

    size: int = Field(ge=0)
    sha256: str


class StageEntry(_Strict):
    """A stage: its spec, where it is in the run, and which epochs it has stashed."""

    number: int = Field(ge=1)
    layers: list[str]
    with_exit: bool
    parked: bool
    next_step: int = Field(ge=0)
    weights_sha256: str
    stash: list[int]

    @property
    def spec(self) -> StageSpec:
        """Where the stage sits."""
        return StageSpec(self.number, tuple(self.layers), self.with_exit)

    @property
    def files(self) -> list[str]:
        """Names of its files; they follow from the number, so none can point elsewhere."""
        stash = [stash_file(self.number, epoch) for epoch in self.stash]
        return [weights_file(self.number), optimizer_file(self.number), *stash]


class RunManifest(_Strict):
    """A whole checkpoint, but for the tensors and the vocabulary."""

    kind: str
    format: int
    name: str
    step: int = Field(ge=0)
    threads: int
    stages: list[StageEntry] = Field(min_length=1)
    files: dict[str, FileEntry]
    data: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, Any]

    def dump(self) -> bytes:
        """The file's content, with a checksum over itself."""
        return signed(self.model_dump(), CHECKSUM)


def checksum(tree: dict[str, Any]) -> str:
    """Digest of a JSON tree that does not depend on its layout."""
    return sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())


def signed(tree: dict[str, Any], key: str) -> bytes:
    """A JSON file with a checksum over all the rest of it under `key`."""
    # Once to text and back: the checksum is of what a reader will see.
    seen = json.loads(json.dumps(tree))
    return json.dumps({**seen, key: checksum(seen)}, indent=2).encode()


def stage_entry(spec: StageSpec, state: StageState, parked: bool) -> StageEntry:
    """What a manifest says of a stage."""
    return StageEntry(
        **asdict(spec) | {"layers": list(spec.layers)},
        parked=parked,
        next_step=state.next_step,
        weights_sha256=state.sha256,
        stash=sorted(state.stash),
    )


def read_manifest(content: bytes, step: int, name: str | None) -> RunManifest:
    """Reads and checks a manifest.

    Args:
        content: of the file.
        step: the step that the folder's name says.
        name: the run that it must be of; None: any.

    Raises:
        Damaged: it cannot be used; says why.
    """
    tree = read_tree(content, MANIFEST)
    if tree.get("kind") != KIND:
        raise _damaged(f"kind {tree.get('kind')!r}: not a {KIND}")
    if tree.get("format") != FORMAT:
        raise _damaged(
            f"format {tree.get('format')!r} is of another version of scpl-ray (this one reads "
            f"{FORMAT})"
        )
    said = tree.pop(CHECKSUM, None)
    if said != checksum(tree):
        raise _damaged("its checksum differs from its content: it is damaged or was edited")
    try:
        manifest = RunManifest.model_validate(tree)
    except ValidationError as error:
        raise _damaged(first_error(error)) from error
    if name is not None and manifest.name != name:
        raise _damaged(f"it is of the run {manifest.name!r}, not of {name!r}")
    if manifest.step != step:
        raise _damaged(f"it is of step {manifest.step}: the folder was renamed or copied")
    _check_stages(manifest)
    _check_files(manifest)
    return manifest


def first_error(error: ValidationError) -> str:
    """Words the first thing that does not fit."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def check_steps(step: int, stages: list[StageEntry]) -> None:
    """Refuses training stages that are at another step than the checkpoint.

    Raises:
        ValueError: naming the stage.
    """
    for stage in stages:
        if not stage.parked and stage.next_step != step:
            raise ValueError(
                f"stage {stage.number} is at step {stage.next_step}, the checkpoint at step {step}"
            )


def _check_stages(manifest: RunManifest) -> None:
    training = [s.number for s in manifest.stages if not s.parked]
    every = [s.number for s in manifest.stages]
    if not training or training != list(range(1, len(training) + 1)):
        raise _damaged(f"training stages {training}: they must be numbered from 1, without a gap")
    if len(set(every)) < len(every):
        raise _damaged(f"stages {every}: a number comes twice")
    try:
        check_steps(manifest.step, manifest.stages)
    except ValueError as error:
        raise _damaged(str(error)) from error


def _check_files(manifest: RunManifest) -> None:
    expected = {file for stage in manifest.stages for file in stage.files}
    if manifest.data.get("kind") == "text":
        expected.add(TOKENIZER)
    for name in sorted(manifest.files.keys() - expected):
        raise _damaged(f"file {name!r} does not belong to a checkpoint of these stages")
    for name in sorted(expected - manifest.files.keys()):
        raise _damaged(f"it does not list {name}")


def _damaged(text: str) -> Damaged:
    return Damaged(MANIFEST, text)
