"""Fresh processes for measurements: what ran in one before would be measured too."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool
from typing import Any


@contextmanager
def spawned(
    processes: int, initializer: Callable[..., object] | None = None, *initargs: Any
) -> Iterator[Pool]:
    """A pool of fresh processes, which end by themselves where nothing failed.

    `Pool`'s own `with` kills them, and the semaphores of their libraries stay until Python warns of
    them at its end.

    Args:
        processes: how many.
        initializer: called in each with `initargs`.
        initargs: for it.
    """
    with multiprocessing.get_context("spawn").Pool(processes, initializer, initargs) as pool:
        yield pool
        pool.close()
        pool.join()
