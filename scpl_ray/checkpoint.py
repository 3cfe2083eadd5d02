"""Checkpoints: safetensors keyed by global layer names, a manifest, and the vocabulary.

    checkpoint/manifest.json                   what is here: format, step, stages, data, config
              /stage-1.safetensors             layers.* and heads.* of stage 1
              /stage-1.optimizer.safetensors   PARAMETER NAME/STATE NAME
              /tokenizer.json                  text: the vocabulary

Loading never unpickles. A manifest is written last, so a folder with one is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import StageState
from scpl_ray.errors import CheckpointError
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
        weights: all tensors by global name.
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
        name = f"stage-{spec.number}"
        write_atomically(building / f"{name}.safetensors", state.weights)
        write_atomically(building / f"{name}.optimizer.safetensors", state.optimizer)
        step = max(step, state.next_step)
        stages.append(
            {
                **dataclasses.asdict(spec),
                "file": f"{name}.safetensors",
                "file_sha256": hashlib.sha256(state.weights).hexdigest(),
                "optimizer_file": f"{name}.optimizer.safetensors",
                "optimizer_sha256": hashlib.sha256(state.optimizer).hexdigest(),
                "weights_sha256": state.sha256,
                "next_step": state.next_step,
            }
        )
    data = dataclasses.asdict(info)
    if info.tokenizer:
        write_atomically(building / "tokenizer.json", info.tokenizer.encode())
        data.pop("tokenizer")
    manifest = {
        "format": FORMAT,
        "step": step,
        "threads": threads,
        "stages": stages,
        "data": data,
        "config": config.model_dump(mode="json"),
    }
    write_atomically(building / "manifest.json", json.dumps(manifest, indent=2).encode())
    shutil.rmtree(path, ignore_errors=True)
    building.rename(path)
    return [stage["weights_sha256"] for stage in stages]


def save_left_stage(folder: Path, spec: StageSpec, state: StageState) -> None:
    """Writes a stage that has left a running job: what a crash would lose otherwise."""
    folder.mkdir(exist_ok=True)
    name = f"stage-{spec.number}.step-{state.next_step}"
    write_atomically(folder / f"{name}.safetensors", state.weights)
    write_atomically(folder / f"{name}.optimizer.safetensors", state.optimizer)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads and verifies a checkpoint folder.

    Raises:
        CheckpointError: naming the file that is missing, damaged or foreign.
    """
    manifest = _manifest(path / "manifest.json")
    try:
        data = dict(manifest["data"])
        stages = manifest["stages"]
        specs = [StageSpec(s["number"], tuple(s["layers"]), s["with_exit"]) for s in stages]
        config = Config.model_validate(manifest["config"])
        if data["kind"] == "text":
            data["tokenizer"] = (path / "tokenizer.json").read_text(encoding="utf-8")
        for key in ("label_names", "image_shape", "pixel_stats"):
            data[key] = tuple(data[key])
        info = DataInfo(**data)
        step, threads = int(manifest["step"]), int(manifest["threads"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged, or written by another version ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); train again, or restore the folder from a copy"
        ) from error
    weights: dict[str, Tensor] = {}
    for stage in stages:
        weights |= _tensors(path / stage["file"], stage["file_sha256"])
    return Checkpoint(config, info, specs, step, threads, weights)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: format {found!r} is not a checkpoint of this version (it reads {FORMAT})"
        )
    return manifest


def _tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}; not whole: restore the file or train again"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f"{path}: its checksum differs from the manifest's: the file is damaged or was "
            "replaced; restore it or train again"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
