"""The most memory that a process takes of its own, which the system does not record."""

from __future__ import annotations

import threading
import time

import psutil

_EVERY_S = 0.01


def own_mib() -> float:
    """Memory of this process now, without what it shares (files, Ray's object store), in MiB."""
    info = psutil.Process().memory_info()
    return (info.rss - getattr(info, "shared", 0)) / 2**20


class PeakMemory:
    """Looks at this process's own memory all the time, from its start on.

    The peak that the system keeps (ru_maxrss) has what a process has mapped of the object store in
    it, and what the import of torch once took.
    """

    def __init__(self) -> None:
        self._most = own_mib()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._most = max(self._most, own_mib())
            time.sleep(_EVERY_S)

    def end(self) -> float:
        """Stops looking; the most that there was, in MiB."""
        self._over.set()
        return self._most
