"""Training from Python, in one call: `scpl_ray.train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scpl_ray.config import Config, load_config
from scpl_ray.job import Job
from scpl_ray.notebook import default_reporter
from scpl_ray.report import Reporter
from scpl_ray.start import Start
from scpl_ray.trained import TrainedRun


def train(
    config: str | Path | dict[str, Any] | Config | None = None,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    debug: bool = False,
    job_id: str | None = None,
    resume: bool = False,
    from_step: int | None = None,
) -> TrainedRun:
    """Trains a network layer-parallel and writes its run folder.

    Args:
        config: a YAML file, a dict, a `Config`, or None for the defaults.
        overrides: dotted `key=value` pairs.
        name: the run's name, in place of the config's.
        overwrite: replace an existing run of that name.
        reporter: who listens; default: a live screen in a notebook, else plain lines.
        debug: let Ray and the actors print.
        job_id: how others address the job; default: the name and four digits.
        resume: go on with the run of this name from its newest checkpoint; without one, from the
            beginning; a finished run is returned as it is.
        from_step: train anew, under the name NAME-from-STEP, from the newest checkpoint of the
            run up to this step: to look at a batch again.

    Returns:
        The finished run.

    Raises:
        UserError: config, data, resources or name cannot be used.
        RunError: the run failed.
    """
    extra = [] if name is None else [f"name={name}"]
    resolved = load_config(config, [*overrides, *extra])
    start = Start(resolved, overwrite, resume, from_step)
    listener = reporter or default_reporter()
    if start.ended is not None:
        listener.info(f"{resolved.name!r} has finished before; nothing is left to do")
        return TrainedRun(start.folder.path, start.ended)
    return Job(start, listener, debug, job_id).train()
