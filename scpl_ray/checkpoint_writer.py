"""Writes checkpoints beside the training, one at a time; a failure costs a warning, no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from scpl_ray.storage import reason


class CheckpointWriter:
    """Writes in a thread of its own.

    Args:
        say: told of each failure.
        last_step: of the last complete checkpoint, where the run goes on from one.

    Attributes:
        last_step: of the last complete checkpoint; None: there is none yet.
        failures: how many writes have failed.
        seconds: that the last write took, failed or not.
    """

    def __init__(self, say: Callable[[str], None], last_step: int | None = None) -> None:
        self.say = say
        self.last_step = last_step
        self.failures, self.seconds = 0, 0.0
        self._thread: threading.Thread | None = None
        self._step, self._closed = 0, False

    @property
    def busy(self) -> bool:
        """Whether a write is in progress."""
        return self._thread is not None and self._thread.is_alive()

    def offer(self, step: int, write: Callable[[], None]) -> bool:
        """Starts to write, unless another write is in progress.

        Args:
            step: of the checkpoint.
            write: does it; may fail.

        Returns:
            Whether it was taken.
        """
        if self.busy or self._closed:
            return False
        self._step = step
        # A daemon: storage that hangs must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._run, args=(step, write), name="checkpoint", daemon=True
        )
        self._thread.start()
        return True

    def wait(self, timeout_s: float) -> None:
        """Waits for the write in progress."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Takes no more writes and waits for the one in progress.

        Returns:
            Whether it ended in time.
        """
        self._closed = True
        if self._thread is not None:
            self._thread.join(timeout_s)
        if not self.busy:
            return True
        self.say(
            f"the checkpoint of step {self._step} was not written within {timeout_s:g} more "
            f"seconds; {self._last()}"
        )
        return False

    def _run(self, step: int, write: Callable[[], None]) -> None:
        start = time.perf_counter()
        failure: BaseException | None = None
        try:
            write()
        # Whatever it is: an error in a thread that nobody hears of would be lost.
        except BaseException as error:
            failure = error
        self.seconds = time.perf_counter() - start
        if failure is None:
            self.last_step = step
            return
        self.failures += 1
        text = reason(failure)
        if not isinstance(failure, OSError):
            text = f"{type(failure).__name__}: {text}"
        self.say(
            f"the checkpoint of step {step} was not written: {text}; training goes on; "
            f"{self._last()}"
        )

    def _last(self) -> str:
        if self.last_step is None:
            return "there is no complete checkpoint yet"
        return f"the last complete checkpoint is step {self.last_step}"
