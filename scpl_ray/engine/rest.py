"""Waiting in an actor without being woken a hundred times a second.

An actor that has nothing to do still looks for signals every 10 ms (Ray's own), and takes 0.8 % of
a core for it. While a method of it runs it does not; so the spare process waits within one, until
a signal of the driver, which is on its machine, wakes it.
"""

from __future__ import annotations

import contextlib
import os
import signal

import psutil


class Rest:
    """To be made in the main thread; from then on, `wake` ends a wait that is or will be."""

    def __init__(self) -> None:
        self._woken, self._told = os.pipe()
        os.set_blocking(self._told, False)
        # Written to by the C handler, whichever of Ray's threads the signal comes to.
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        signal.signal(signal.SIGUSR1, lambda *_: None)

    def wait(self) -> None:
        """Until a signal has come; once."""
        os.read(self._woken, 1)
        signal.set_wakeup_fd(-1)
        os.close(self._woken)
        os.close(self._told)


def wake(pid: int, made_at: float) -> None:
    """Ends the wait of a process of this machine.

    Args:
        pid: of it; where it is gone, and another has its number, nothing happens.
        made_at: when it was made, in seconds since 1970.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.create_time() == made_at:
            process.send_signal(signal.SIGUSR1)
