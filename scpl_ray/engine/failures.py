"""How an exception inside a stage is told, whatever engine runs it. No Ray."""

from __future__ import annotations

import traceback

import torch

from scpl_ray import schedule
from scpl_ray.errors import StageError, StageMemoryError
from scpl_ray.models.activation import Activation

_NO_MEMORY = (MemoryError, torch.OutOfMemoryError)


def stage_error(
    number: int, item: schedule.Work, given: Activation | None, error: Exception
) -> StageError:
    """Wraps an exception of a stage with the stage, the step, the shapes and the traceback."""
    step = item.step if isinstance(item, schedule.Train) else getattr(item, "index", -1)
    text = "".join(traceback.format_exception(error))
    shapes = "" if given is None else given.shapes()
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    kind = StageMemoryError if isinstance(error, _NO_MEMORY) else StageError
    return kind(number, step, shapes, cause, text)
