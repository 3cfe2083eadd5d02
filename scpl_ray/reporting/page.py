"""One HTML page of one or several runs: nothing is loaded from elsewhere, nothing is run."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scpl_ray.comparing.plot import draw as draw_comparison
from scpl_ray.comparing.rows import rows_of
from scpl_ray.comparing.runs import grouped, read_run
from scpl_ray.comparing.tables import cells
from scpl_ray.config.flat import flat
from scpl_ray.errors import ConfigError
from scpl_ray.reporting import figures
from scpl_ray.reporting.facts import facts_of, marks_of
from scpl_ray.reporting.pictures import data_address, picture
from scpl_ray.reporting.reading import Told, read_told
from scpl_ray.run_folder import write_atomically
from scpl_ray.versions import machine, versions

REPORT = "report.html"


def write_report(runs: Sequence[str | Path], output: Path | None = None) -> Path:
    """Writes the page.

    Args:
        runs: folders, or names under `runs/`.
        output: of the page; default: report.html in the folder of the first run.

    Returns:
        Where the page is.

    Raises:
        CheckpointError: a run is not there, or damaged.
        ConfigError: the page cannot be written there.
    """
    told = [read_told(run) for run in runs]
    path = output or told[0].path / REPORT
    page = render(told)
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise ConfigError(
            f"--output: cannot write {path}: {error.strerror}; name a file in a folder that is "
            "there and that you may write to"
        ) from error
    return path


def render(told: Sequence[Told]) -> str:
    """The page as text; all that comes from the runs is escaped."""
    environment = Environment(
        loader=PackageLoader("scpl_ray", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: _text(share, 100, 2, " %")
    environment.filters["share"] = lambda share: _text(share, 100, 0, " %")
    environment.filters["loss"] = lambda loss: _text(loss, 1, 4)
    return environment.get_template("report.html.j2").render(
        runs=[facts_of(one) | {"pictures": _pictures(one)} for one in told],
        comparison=_comparison(told) if len(told) > 1 else None,
        made_by={"scpl-ray": versions()["scpl-ray"], **machine()},
    )


def _text(value: float | None, scale: float, digits: int, unit: str = "") -> str:
    if value is None or not math.isfinite(value):
        return "-" if value is None else str(value)
    return f"{scale * value:,.{digits}f}{unit}"


def _pictures(told: Told) -> dict[str, str]:
    """Pictures by name, as addresses; those that would be empty are left out."""
    history, marks = told.history, marks_of(told)
    if not history.stages:
        return {}
    made = {
        "accuracy": picture(lambda axes: figures.draw_accuracy(axes, history, marks)),
        "losses": picture(lambda axes: figures.draw_losses(axes, history, marks)),
        "shares": picture(
            lambda axes: figures.draw_shares(axes, history), 1.5 + 0.3 * len(history.stages)
        ),
    }
    if any(memory for stage in history.stages.values() for memory in stage.memory_mib):
        made["memory"] = picture(lambda axes: figures.draw_memory(axes, history, marks))
    if told.timeline is not None:
        made["timeline"] = data_address(told.timeline, "image/png")
    return made


def _comparison(told: Sequence[Told]) -> dict[str, Any]:
    """The runs side by side: the table of those that were scored, pictures, keys that differ."""
    scored = [one for one in told if one.scored]
    left_out = [one.name for one in told if not one.scored]
    compared: dict[str, Any] = {"left_out": left_out, "heads": [], "rows": [], "picture": None}
    if scored:
        rows = rows_of(grouped([read_run(one.path) for one in scored]))
        compared["heads"], compared["rows"] = cells(rows)
        out = io.BytesIO()
        draw_comparison(rows, out)
        compared["picture"] = data_address(out.getvalue(), "image/png")
    lines = [(one.name, one.history) for one in told]
    compared["over_time"] = picture(lambda axes: figures.draw_last_exits(axes, lines))
    trees = [flat(one.config) for one in told]
    keys = sorted({key for tree in trees for key in tree} - {"name"})
    compared["names"] = [one.name for one in told]
    compared["different"] = [
        (key, [str(tree.get(key, "-")) for tree in trees])
        for key in keys
        if any(tree.get(key) != trees[0].get(key) for tree in trees)
    ]
    return compared
