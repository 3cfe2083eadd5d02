"""Processes of one measurement: each starts anew, and all end with it."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from scpl_ray.errors import RunError, ScplRayError

_END_S = 10.0


@dataclass(frozen=True)
class Rank:
    """One process among those of a measurement.

    Attributes:
        number: from 0.
        world: how many there are.
        store: file through which they find each other.
        patience_s: the longest that one waits for another.
    """

    number: int
    world: int
    store: str
    patience_s: float

    @property
    def first(self) -> bool:
        """Whether it holds the first layers."""
        return self.number == 0

    @property
    def last(self) -> bool:
        """Whether it holds the classifier."""
        return self.number == self.world - 1

    def join(self) -> None:
        """Makes them a group of torch.distributed (gloo), where there are several."""
        if self.world == 1:
            return
        import torch.distributed as dist

        dist.init_process_group(
            "gloo",
            store=dist.FileStore(self.store, self.world),
            rank=self.number,
            world_size=self.world,
            timeout=timedelta(seconds=self.patience_s),
        )

    def leave(self) -> None:
        """Ends the group."""
        if self.world > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


def in_processes(
    name: str, world: int, patience_s: float, work: Callable[..., Any], *args: Any
) -> list[Any]:
    """Calls `work(rank, *args)` in so many fresh processes.

    Args:
        name: for messages.
        world: how many processes.
        patience_s: the longest that one waits for another.
        work: a function of a module.
        args: what else it is given.

    Returns:
        What each returned, by its number.

    Raises:
        RunError: one failed or ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="scpl-ray-bench-") as folder:
        store = str(Path(folder) / "store")
        # Not daemons: those could not have processes that make their batches.
        processes = [
            context.Process(
                target=_run, args=(Rank(i, world, store, patience_s), work, args, results)
            )
            for i in range(world)
        ]
        try:
            for process in processes:
                process.start()
            found = dict(_answer(name, results, processes) for _ in processes)
            for process in processes:
                process.join(_END_S)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [found[i] for i in range(world)]


def _run(rank: Rank, work: Callable[..., Any], args: tuple[Any, ...], results: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        results.put((rank.number, work(rank, *args), None))
    except Exception as error:
        worded = isinstance(error, ScplRayError)
        results.put(
            (rank.number, None, str(error) if worded else f"{type(error).__name__}: {error}")
        )
        raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(name: str, results: Any, processes: list[Any]) -> tuple[int, Any]:
    while True:
        try:
            number, found, error = results.get(timeout=0.5)
        except queue.Empty:
            if any(p.exitcode not in (None, 0) for p in processes):
                # What it said last may still be on its way.
                time.sleep(0.5)
                if results.empty():
                    raise RunError(f"{name}: one of its processes ended unexpectedly") from None
            continue
        if error is not None:
            raise RunError(f"{name}: process {number + 1} of {len(processes)} failed: {error}")
        return number, found
