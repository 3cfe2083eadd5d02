"""Where the time of a stage's process goes outside its compute, and its memory."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import psutil
import torch

from scpl_ray.stage_facts import StageStats

# To ask the system takes longer than a small layer.
_MEMORY_EVERY_S = 0.1


class ActorClock:
    """Told what begins and ends, it completes the figures that a stage gives of a batch."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._memory_mib, self._memory_at = 0.0, -math.inf
        self._idle_since = self._sending_since = time.perf_counter()
        self._waiting_s = self._receive_s = self._send_s = 0.0
        self._snapshot_s = 0.0
        self._snapshot_from: float | None = None

    def start(self) -> None:
        """The stage takes its place: what it waited before does not count."""
        self._waiting_s, self._idle_since = 0.0, time.perf_counter()

    def idle(self) -> None:
        """A piece of work is done."""
        self._idle_since = time.perf_counter()

    def awake(self) -> None:
        """A batch has come."""
        gap = time.perf_counter() - self._idle_since
        copying = 0.0
        if self._snapshot_from is not None:
            # Behind a snapshot Ray copies it, with several threads; the rest was waiting, for work
            # or for a core.
            copying = min(gap, time.process_time() - self._snapshot_from)
            self._snapshot_from = None
        self._snapshot_s += copying
        self._waiting_s += gap - copying

    def received(self, seconds: float) -> None:
        """The batch has been unpacked."""
        self._receive_s = seconds

    def sending(self) -> None:
        """The output is there."""
        self._sending_since = time.perf_counter()

    def sent(self) -> None:
        """The output has been stored."""
        self._send_s = time.perf_counter() - self._sending_since

    def took_snapshot(self, begun: float) -> None:
        """A snapshot was begun at this moment; now it goes into the store."""
        self.idle()
        self._snapshot_s += self._idle_since - begun
        self._snapshot_from = time.process_time()

    def tell(
        self, stats: StageStats, given_mib: float, handed_mib: float, on_cuda: bool
    ) -> StageStats:
        """The figures of a batch with what only the process knows; it is done now.

        Args:
            stats: as the stage gave them.
            given_mib: size of the input.
            handed_mib: size of the output.
            on_cuda: its memory is what counts then.
        """
        waiting, self._waiting_s = self._waiting_s, 0.0
        snapshot, self._snapshot_s = self._snapshot_s, 0.0
        self.idle()
        return replace(
            stats,
            waiting_s=waiting,
            snapshot_s=snapshot,
            memory_mib=self._memory(on_cuda),
            given_mib=given_mib,
            receive_s=self._receive_s,
            send_s=self._send_s,
            handed_mib=handed_mib,
        )

    def _memory(self, on_cuda: bool) -> float:
        if on_cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        if self._idle_since - self._memory_at > _MEMORY_EVERY_S:
            self._memory_mib = self._process.memory_info().rss / 2**20
            self._memory_at = self._idle_since
        return self._memory_mib
