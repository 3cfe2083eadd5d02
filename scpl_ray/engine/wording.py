"""Ray's exceptions in our own words."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from scpl_ray import schedule
from scpl_ray.errors import PipelineTimeoutError, RunError, ScplRayError, StageError


def worded(error: Exception, who: str) -> ScplRayError:
    """Unwraps an error of ours from Ray's wrapping, or words a foreign one."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ScplRayError):
        return cause
    if isinstance(error, ScplRayError):
        return error
    failure = RunError(f"{who} failed: {first_line(cause or error)}")
    failure.__cause__ = error
    return failure


def first_line(error: Exception) -> str:
    """The first line of an error's text, with its class where that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if isinstance(error, RayActorError) else f"{type(error).__name__}: {text}"


def late(
    work: schedule.Work, batch: Any, number: int, shapes: str | None, limit: float
) -> PipelineTimeoutError:
    """Says who has not delivered: the data process (its batch is not there) or the stage."""
    if batch is not None and not ray.wait([batch], timeout=0)[0]:
        return PipelineTimeoutError(
            f"the data process did not deliver {work} within "
            f"pipeline.step_timeout_s = {limit:g} s; raise it if the data is that slow"
        )
    return PipelineTimeoutError(
        f"stage {number} did not finish {work} within pipeline.step_timeout_s = "
        f"{limit:g} s (its last input: {shapes or 'none yet'}); it hangs or is "
        "that slow: raise the timeout, or try pipeline.engine=local"
    )


def first_cause(
    work: schedule.Work, batch: Any, number: int, shapes: str, error: Exception
) -> ScplRayError:
    """Finds who failed first: the data process, or the stage whose answer failed."""
    if batch is not None:
        try:
            ray.get(batch, timeout=1)
        except GetTimeoutError:
            pass
        except Exception as of_data:
            return worded(of_data, "the data process")
    step = work.step if isinstance(work, schedule.Train) else -1
    if isinstance(error, RayActorError):
        cause = f"its process ended unexpectedly ({first_line(error)})"
        return StageError(number, step, shapes, cause, str(error))
    return worded(error, f"stage {number}")
