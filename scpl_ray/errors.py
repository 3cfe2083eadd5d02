"""The errors a user sees: what went wrong, where, and what to do about it.

Two families decide the exit code of the command line: `UserError` (2) is mended by the user,
`RunError` (1) is a failure of the run. Both survive the trip between Ray processes: pickling
an exception calls its class with `args`, so every class keeps its constructor's arguments there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class ScplRayError(Exception):
    """Base of all errors that scpl-ray words itself.

    Attributes:
        exit_code: the process exit code of the command line.
        hint: how to see it again, where that is known.
    """

    exit_code = 1
    hint = ""


class UserError(ScplRayError):
    """Something that the user can mend: a config, a path, a name, a resource request."""

    exit_code = 2


class ConfigError(UserError):
    """A config file or an override that does not validate."""


class DataError(UserError):
    """Data that cannot be found, read or used with this config."""


class CheckpointError(UserError):
    """A run folder or checkpoint that cannot be used."""


class ResourceError(UserError):
    """The cluster does not have what the job asks for."""


class JobError(UserError):
    """A job that cannot be found, reached, or told what to do."""


class RunError(ScplRayError):
    """A run that started and failed."""


class StageError(RunError):
    """An exception inside a stage, with what is needed to find it.

    Scenario: a layer of stage 2 raises in its forward pass at step 17. The actor wraps the
    exception in this class; the driver raises it as the first error of the run.

    Args:
        stage: number of the stage, from 1.
        step: index of the batch, or -1 where no batch is involved.
        shapes: shapes of the stage's input, for the message.
        cause: one line, the class and text of the original exception.
        details: the original traceback as text, shown with `--debug`.
    """

    def __init__(self, stage: int, step: int, shapes: str, cause: str, details: str = "") -> None:
        super().__init__(stage, step, shapes, cause, details)
        self.stage, self.step, self.shapes = stage, step, shapes
        self.cause, self.details = cause, details

    def __str__(self) -> str:
        where = f"stage {self.stage}" + (f" at step {self.step}" if self.step >= 0 else "")
        shapes = f" (input {self.shapes})" if self.shapes else ""
        return f"{where}{shapes}: {self.cause}{self.hint}"


class StageMemoryError(StageError):
    """A stage ran out of memory; another process may have it, so the stage is replaced."""


class NonFiniteLossError(RunError):
    """A stage's loss or gradient is NaN or infinite; the run stops before it spoils the weights.

    Scenario: a learning rate that is too high, or a batch with NaN features.
    """

    def __init__(self, stage: int, step: int, loss: float) -> None:
        super().__init__(stage, step, loss)
        self.stage, self.step, self.loss = stage, step, loss

    def __str__(self) -> str:
        gradient = ", its gradient is not" if math.isfinite(self.loss) else ""
        return (
            f"stage {self.stage} at step {self.step}: the loss is {self.loss}{gradient}; its "
            "parameters were left as they were before this batch. Lower optimizer.lr, set "
            "train.clip_norm, or leave such batches out with fault_tolerance.on_nonfinite=skip"
            f"{self.hint}"
        )


class PipelineTimeoutError(RunError):
    """A stage did not answer within `pipeline.step_timeout_s` or `pipeline.start_timeout_s`."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Returns " Did you mean X?" for the closest of the allowed words, or an empty string."""
    found = difflib.get_close_matches(str(word), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def unknown(what: str, word: str, allowed: Iterable[str]) -> str:
    """Words "unknown WHAT 'X'", the allowed values, and the nearest match."""
    names = list(allowed)
    return f"unknown {what} {word!r}; allowed: {', '.join(names)}.{nearest(word, names)}"
