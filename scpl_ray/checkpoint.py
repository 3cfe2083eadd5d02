"""Checkpoints: safetensors keyed by global layer names, a manifest, and the vocabulary.

    checkpoint/manifest.json                   what is here: format, step, stages, data, config
              /stage-1.safetensors             layers.* and heads.* of stage 1
              /stage-1.optimizer.safetensors   PARAMETER NAME/STATE NAME
              /tokenizer.json                  text: the vocabulary

Loading never unpickles. A manifest is written last, so a folder with one is complete.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import StageState
from scpl_ray.errors import CheckpointError
from scpl_ray.manifest import (
    MANIFEST,
    TOKENIZER,
    Damaged,
    describe,
    described,
    optimizer_file,
    read_tensors,
    read_tree,
    sha256,
    weights_file,
)
from scpl_ray.run_folder import write_atomically
from scpl_ray.stage_facts import StageSpec

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read.

    Attributes:
        config: the run's config.
        info: what the network was trained on, with the tokenizer.
        specs: its stages.
        step: training steps done.
        threads: CPU threads of each stage, for equal numbers.
        weights: the tensors that were read, by global name.
    """

    config: Config
    info: DataInfo
    specs: list[StageSpec]
    step: int
    threads: int
    weights: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    config: Config,
    info: DataInfo,
    specs: list[StageSpec],
    states: Iterable[StageState],
    threads: int,
) -> list[str]:
    """Writes a checkpoint beside its place and renames it into it.

    Returns:
        The digest of each stage's weights.
    """
    building = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    stages: list[dict[str, Any]] = []
    step = 0
    for spec, state in zip(specs, states, strict=True):
        weights, optimizer = weights_file(spec.number), optimizer_file(spec.number)
        write_atomically(building / weights, state.weights)
        write_atomically(building / optimizer, state.optimizer)
        step = max(step, state.next_step)
        stages.append(
            {
                **dataclasses.asdict(spec),
                "file": weights,
                "file_sha256": sha256(state.weights),
                "optimizer_file": optimizer,
                "optimizer_sha256": sha256(state.optimizer),
                "weights_sha256": state.sha256,
                "next_step": state.next_step,
            }
        )
    if info.tokenizer:
        write_atomically(building / TOKENIZER, info.tokenizer.encode())
    manifest = {
        "format": FORMAT,
        "step": step,
        "stages": stages,
        **describe(config, info, threads),
    }
    write_atomically(building / MANIFEST, json.dumps(manifest, indent=2).encode())
    shutil.rmtree(path, ignore_errors=True)
    building.rename(path)
    return [stage["weights_sha256"] for stage in stages]


def read_checkpoint(path: Path, stages: Collection[int] | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint folder.

    Args:
        path: the folder.
        stages: numbers of the stages whose weights are read; None: all.

    Raises:
        CheckpointError: naming the file that is missing, damaged or foreign.
    """
    manifest = _manifest(path / MANIFEST)
    try:
        tokenizer = ""
        if manifest["data"]["kind"] == "text":
            tokenizer = (path / TOKENIZER).read_text(encoding="utf-8")
        config, info, threads = described(manifest, tokenizer)
        rows, step = manifest["stages"], int(manifest["step"])
        specs = [StageSpec(s["number"], tuple(s["layers"]), s["with_exit"]) for s in rows]
        read = [s for s in rows if stages is None or s["number"] in stages]
        parts = [(path / s["file"], s["file_sha256"]) for s in read]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged, or written by another version ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); train again, or restore the folder from a copy"
        ) from error
    weights: dict[str, Tensor] = {}
    for file, checksum in parts:
        weights |= _tensors(file, checksum)
    return Checkpoint(config, info, specs, step, threads, weights)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_tree(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except Damaged as error:
        raise CheckpointError(str(error)) from error
    found = manifest.get("format")
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: format {found!r} is not a checkpoint of this version (it reads {FORMAT})"
        )
    return manifest


def _tensors(path: Path, checksum: str) -> dict[str, Tensor]:
    try:
        return read_tensors(path.read_bytes(), checksum, str(path))
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}; not whole: restore the file or train again"
        ) from error
    except Damaged as error:
        raise CheckpointError(f"{error}; restore it or train again") from error
