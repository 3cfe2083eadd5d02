"""The two kinds of actors: one that makes batches, one that holds a stage."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import psutil
import ray
import torch

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.engine.base import DataReady, StageState
from scpl_ray.engine.build import build_stage, keep_freed_memory, prepare_process, stage_state
from scpl_ray.engine.data import fetch, load_data
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.transport import Packet, pack, unpack
from scpl_ray.errors import ScplRayError
from scpl_ray.models.text import WordVectors
from scpl_ray.schedule import Evaluate, Train
from scpl_ray.stage import ExitScore, StageStats
from scpl_ray.stage_module import StageSpec


def _extend_path(paths: list[str]) -> None:
    sys.path[:0] = [p for p in paths if p not in sys.path]


class DataActor:
    """Makes batches in a process of its own, ahead of the pipeline."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(1)
        self.config = config

    def prepare(self) -> DataReady:
        """Loads the data."""
        self.loader, ready = load_data(self.config)
        return ready

    def batch(self, work: Train | Evaluate) -> Batch:
        """Makes one batch."""
        return fetch(self.loader, work)


class StageActor:
    """Holds one stage. Its caller sends forward(t), update(t), forward(t+1), ... in order.

    Args:
        spec: where the stage sits.
        config: the run's config.
        threads: CPU threads, equal in all stages.
        paths: entries of the driver's module path, for models of the user's own.
    """

    def __init__(self, spec: StageSpec, config: Config, threads: int, paths: list[str]) -> None:
        _extend_path(paths)
        keep_freed_memory()
        prepare_process(config, threads)
        self.spec, self.config = spec, config
        self.failure: ScplRayError | None = None
        self.process = psutil.Process()
        self.idle_since = time.perf_counter()
        self.waiting_s = 0.0

    def build(
        self,
        info: DataInfo,
        total_steps: int,
        steps_per_epoch: int,
        device: str,
        vectors: WordVectors | None,
    ) -> int:
        """Builds the stage on its device; returns the process id."""
        try:
            self.stage = build_stage(
                self.spec, self.config, info, total_steps, steps_per_epoch, device, vectors
            )
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(self.spec.number, Train(-1, -1), None, error) from None
        return os.getpid()

    def forward(self, work: Train, packet: Packet | Batch) -> Packet:
        """Computes the output of one training batch; it leaves before the update begins."""
        output = self._forward(work, packet, last=False)
        assert output is not None, "only the last stage hands nothing on"
        return output

    def _forward(self, work: Train, packet: Packet | Batch, last: bool) -> Packet | None:
        self._awake()
        activation, labels = unpack(packet, self.stage.device)
        try:
            output = self.stage.forward(work.step, activation, labels)
            return None if last else pack(output, labels)
        except Exception as error:
            # Kept, because the caller holds on to the update's answer, not to this one's.
            self.failure = stage_error(self.spec.number, work, activation, error)
            raise self.failure from None
        finally:
            self.idle_since = time.perf_counter()

    def update(self, work: Train) -> StageStats:
        """Learns from the batch of the last forward."""
        self._awake()
        if self.failure is not None:
            raise self.failure
        try:
            stats = self.stage.update(work.step)
        except ScplRayError as error:
            self.failure = error
            raise
        except Exception as error:
            self.failure = stage_error(self.spec.number, work, None, error)
            raise self.failure from None
        waiting, self.waiting_s = self.waiting_s, 0.0
        self.idle_since = time.perf_counter()
        return replace(stats, waiting_s=waiting, memory_mib=self._memory_mib())

    def train(self, work: Train, packet: Packet | Batch) -> StageStats:
        """Both in one call, for the last stage, which hands nothing on."""
        self._forward(work, packet, last=True)
        return self.update(work)

    @ray.method(num_returns=2)
    def evaluate(self, packet: Packet | Batch, last: bool) -> tuple[Packet | None, ExitScore]:
        """Scores one batch; the last stage hands nothing on."""
        activation, labels = unpack(packet, self.stage.device)
        try:
            output, score = self.stage.evaluate(activation, labels)
        except Exception as error:
            raise stage_error(self.spec.number, Train(-1, -1), activation, error) from None
        self.idle_since = time.perf_counter()
        return (None if last else pack(output, labels)), score

    def stash(self, epoch: int) -> None:
        """Keeps the weights of an epoch's end."""
        self.stage.stash(epoch)

    def keep_stash(self, epoch: int | None, restore: bool) -> None:
        """Forgets the stashes but one; with `restore`, goes back to it."""
        self.stage.keep_stash(epoch, restore)

    def state(self) -> StageState:
        """Serialises the stage."""
        return stage_state(self.stage)

    def _awake(self) -> None:
        self.waiting_s += time.perf_counter() - self.idle_since

    def _memory_mib(self) -> float:
        if self.stage.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return self.process.memory_info().rss / 2**20
