"""Training batches made ahead by several processes: images take more than one core."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scpl_ray.data.batch import Batch
from scpl_ray.errors import DataError, ScplRayError

if TYPE_CHECKING:
    from scpl_ray.data.loader import BatchLoader

_STEPS = 2**62  # more than any run has
_AHEAD = 2  # batches that each process makes before they are asked for


class Workers:
    """Makes the batches of a loader in processes of their own; the batches are the same.

    Steps that follow one another are made ahead. One that is asked for again is made by the asker;
    where steps are left out, the processes start anew. They end with whoever started them; if that
    was killed, within ten seconds or so.

    Args:
        loader: each process gets a copy.
        count: processes.
    """

    def __init__(self, loader: BatchLoader, count: int) -> None:
        self.loader, self.count = copy.copy(loader), count
        self._next: int | None = None
        self._batches: Iterator[Any] = iter(())

    def batch(self, step: int) -> Batch:
        """The batch of a training step.

        Raises:
            ScplRayError: what making it raised.
            DataError: a process is gone.
        """
        if self._next is not None and step < self._next:
            return self.loader.train_batch(step)
        if step != self._next:
            self._start(step)
        try:
            made = next(self._batches)
        except RuntimeError as error:
            raise DataError(
                f"pipeline.data_workers: a process that makes batches is gone ({error}); it may "
                "have run out of memory: use fewer"
            ) from error
        if isinstance(made, ScplRayError):
            self._next = None
            raise made
        self._next = step + 1
        assert isinstance(made, Batch)
        return made

    def _start(self, step: int) -> None:
        from torch.utils.data import DataLoader

        self._batches = iter(())  # the processes of before end first
        loader: DataLoader[Any] = DataLoader(
            _Made(self.loader),  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(step, _STEPS),
            num_workers=self.count,
            prefetch_factor=_AHEAD,
            collate_fn=_as_is,
            # A copy of this process would hold its connections open after its death.
            multiprocessing_context="spawn",
        )
        self._batches = iter(loader)


class _Made:
    """What the processes hold: step -> batch, or the error that it met."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> Batch | ScplRayError:
        try:
            return self.loader.train_batch(step)
        except ScplRayError as error:
            # Raised here, its words would be buried in a traceback.
            return error


def _as_is(made: Any) -> Any:
    return made
