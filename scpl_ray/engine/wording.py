"""Ray's exceptions in our own words."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from scpl_ray import schedule
from scpl_ray.engine.fence import OutOfTurn
from scpl_ray.errors import PipelineTimeoutError, RunError, ScplRayError


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


def data_is_late(batch: Any) -> bool:
    """Whether a batch that was asked for is not there yet."""
    return batch is not None and not ray.wait([batch], timeout=0)[0]


def late(
    work: schedule.Work, batch: Any, number: int, shapes: str | None, limit: float
) -> PipelineTimeoutError:
    """Says who has not delivered: the data process (its batch is not there) or the stage."""
    if data_is_late(batch):
        return PipelineTimeoutError(
            f"the data process did not deliver {work} within "
            f"pipeline.step_timeout_s = {limit:g} s; raise it if the data is that slow"
        )
    return PipelineTimeoutError(
        f"stage {number} did not finish {work} within pipeline.step_timeout_s = "
        f"{limit:g} s (its last input: {shapes or 'none yet'}); it hangs or is "
        "that slow: raise the timeout, or try pipeline.engine=local"
    )


def own_cause(error: Exception, batch: Any) -> ScplRayError | None:
    """What the code of a stage or of the data process raised; None: something died or is lost."""
    if batch is not None:
        try:
            ray.get(batch, timeout=1)
        except GetTimeoutError:
            pass
        except Exception as of_data:
            return _raised(of_data, "the data process")
    return _raised(error, "a stage")


def _raised(error: Exception, who: str) -> ScplRayError | None:
    cause = getattr(error, "cause", None)
    if isinstance(error, ScplRayError):
        return error
    if not isinstance(error, RayTaskError) or isinstance(cause, OutOfTurn | RayError):
        return None
    return worded(error, who)
