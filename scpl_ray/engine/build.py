"""Builds a stage in the process where it will live; shared by all engines. No Ray."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import sys

import torch
from safetensors.torch import load, save
from torch import Tensor

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.base import StageState
from scpl_ray.engine.time_slice import set_time_slice
from scpl_ray.models.registry import build_model
from scpl_ray.models.text import WordVectors
from scpl_ray.stage import Run, Stage
from scpl_ray.stage_facts import StageSpec
from scpl_ray.stage_module import weights_digest

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def prepare_stage_process(config: Config, threads: int) -> None:
    """Sets up a process that is there for one stage; see `prepare_process`."""
    if config.resources.keep_freed_memory:
        keep_freed_memory()
    if config.resources.time_slice_ms is not None:
        set_time_slice(config.resources.time_slice_ms)
    prepare_process(config, threads)


def prepare_process(config: Config, threads: int) -> None:
    """Sets what must be equal in every process that computes: threads and determinism.

    Results are equal to the bit only with equal thread counts, so every engine calls this.
    """
    torch.set_num_threads(threads)
    if config.resources.device != "cpu" and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory: giving back and faulting in again costs 10-20 % a step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_MAX, 0)


def build_stage(
    spec: StageSpec,
    config: Config,
    info: DataInfo,
    total_steps: int,
    steps_per_epoch: int,
    device: str,
    vectors: WordVectors | None = None,
    weights: bytes | None = None,
    state: StageState | None = None,
) -> Stage:
    """Builds the layers, heads and optimizer of one stage on its device.

    Args:
        spec: which layers.
        config: the run's config.
        info: what the layers must fit.
        total_steps: training steps of the run.
        steps_per_epoch: training steps of an epoch.
        device: "cpu" or "cuda".
        vectors: word vectors for the embedding.
        weights: tensors by global name (safetensors); those of this stage's names replace its own.
        state: a stage's whole state, optimizer too, to go on from.
    """
    model = build_model(config, info, vectors)
    run = Run(config, info.num_classes, total_steps, steps_per_epoch)
    stage = Stage(spec, model, run, torch.device(device))
    if weights is not None:
        stage.module.load_named(stage.module.named_state() | load(weights))
    if state is not None:
        load_stage_state(stage, state)
    return stage


def load_stage_state(stage: Stage, state: StageState) -> None:
    """Gives a stage everything back that `stage_state` took."""
    stage.load_state(load(state.weights), load(state.optimizer))
    stage.kept = {epoch: load(content) for epoch, content in state.stash.items()}
    stage.begin(state.next_step)


def stage_state(stage: Stage, digest: bool = True) -> StageState:
    """Serialises a stage's tensors (safetensors: loading never unpickles).

    Args:
        stage: the stage.
        digest: whether to compute the digest of the weights.
    """
    return StageState(
        save_tensors(stage.module.named_state()),
        save(stage.optimizer_state()),
        stage.module.weights_sha256() if digest else "",
        stage.next_step,
        {epoch: save_tensors(tensors) for epoch, tensors in stage.kept.items()},
    )


def with_digest(state: StageState) -> StageState:
    """Adds the digest of the weights to a state that was saved without."""
    if state.sha256:
        return state
    return dataclasses.replace(state, sha256=weights_digest(load(state.weights)))


def save_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as safetensors."""
    return save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
