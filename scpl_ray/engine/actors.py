"""The actors that compute: one holds a stage, one holds the stages that have left."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace

import psutil
import ray
import torch

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.engine import LOADED_AT
from scpl_ray.engine.base import StageState
from scpl_ray.engine.build import build_stage, keep_freed_memory, prepare_process, stage_state
from scpl_ray.engine.failures import stage_error
from scpl_ray.engine.transport import Packet, pack, unpack
from scpl_ray.errors import ScplRayError
from scpl_ray.models.text import WordVectors
from scpl_ray.schedule import Train
from scpl_ray.stage import Stage
from scpl_ray.stage_facts import ExitScore, StageSpec, StageStats


def _extend_path(paths: list[str]) -> None:
    sys.path[:0] = [p for p in paths if p not in sys.path]


@dataclass(frozen=True)
class Started:
    """When a stage's process was where, in seconds since 1970.

    Attributes:
        pid: the process.
        process_at: it was made; Ray may have made it ahead.
        imports_at: the first import of ours began.
        init_at: imports were done.
        built_at: the layers were on their device.
    """

    pid: int
    process_at: float
    imports_at: float
    init_at: float
    built_at: float


class StageActor:
    """Holds one stage. Its caller sends forward(t), update(t), forward(t+1), ... in order.

    Args:
        spec: where the stage sits.
        config: the run's config.
        threads: CPU threads, equal in all stages.
        paths: entries of the driver's module path, for models of the user's own.
    """

    def __init__(self, spec: StageSpec, config: Config, threads: int, paths: list[str]) -> None:
        self.init_at = time.time()
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
        vectors: WordVectors | None = None,
        weights: bytes | None = None,
        state: StageState | None = None,
    ) -> Started:
        """Builds the stage on its device; for the arguments see `build_stage`."""
        totals = (total_steps, steps_per_epoch)
        try:
            self.stage = build_stage(
                self.spec, self.config, info, *totals, device, vectors, weights, state
            )
        except ScplRayError:
            raise
        except Exception as error:
            raise stage_error(self.spec.number, Train(-1, -1), None, error) from None
        made = self.process.create_time()
        return Started(os.getpid(), made, LOADED_AT, self.init_at, time.time())

    def begin(self, step: int) -> None:
        """Joins a run that is under way at `step`."""
        self.stage.begin(step)
        self.waiting_s, self.idle_since = 0.0, time.perf_counter()

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

    def keep_stash(self, epoch: int | None, until: int) -> None:
        """Of the stashes up to the epoch `until`, forgets all but one."""
        self.stage.keep_stash(epoch, until)

    def restore_stash(self, epoch: int) -> None:
        """Goes back to the stash of an epoch."""
        self.stage.restore_stash(epoch)

    def state(self) -> StageState:
        """Serialises the stage."""
        return stage_state(self.stage)

    def _awake(self) -> None:
        self.waiting_s += time.perf_counter() - self.idle_since

    def _memory_mib(self) -> float:
        if self.stage.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return self.process.memory_info().rss / 2**20


class ParkedActor:
    """Holds the stages that have left: they evaluate what the last training stage hands on.

    Holds no device and no reserved core: its stages compute on the CPU.

    Args:
        config: the run's config.
        threads: CPU threads, equal in all stages.
        paths: entries of the driver's module path.
    """

    def __init__(self, config: Config, threads: int, paths: list[str]) -> None:
        _extend_path(paths)
        prepare_process(config, threads)
        self.stages: list[Stage] = []
        self.aside: dict[int, Stage] = {}

    def add(
        self,
        spec: StageSpec,
        config: Config,
        info: DataInfo,
        totals: tuple[int, int],
        state: StageState,
    ) -> StageState:
        """Takes a stage in, before those that have left earlier; returns its state."""
        stage = build_stage(spec, config, info, *totals, "cpu", state=state)
        self.stages.insert(0, stage)
        return state

    def state(self, number: int) -> StageState:
        """Serialises one stage."""
        return stage_state(next(s for s in self.stages if s.spec.number == number))

    def set_aside(self, number: int) -> None:
        """Passes the first stage by: it trains again elsewhere."""
        self.aside[number] = self.stages.pop(0)
        assert self.aside[number].spec.number == number

    def forget_all(self) -> None:
        """Gives all stages up: the one that fed them is no more."""
        self.stages = []

    def take_back(self, number: int) -> None:
        """Puts a stage in its place again: it failed elsewhere."""
        self.stages.insert(0, self.aside.pop(number))

    def evaluate(self, packet: Packet) -> list[ExitScore]:
        """Scores one batch with all stages, one after another."""
        activation, labels = unpack(packet, torch.device("cpu"))
        scores = []
        for stage in self.stages:
            activation, score = stage.evaluate(activation, labels)
            scores.append(score)
        return scores
