"""`scpl-ray eval`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scpl_ray.cli.options import debug_option, emit, measure_option, temperatures_option

if TYPE_CHECKING:
    from scpl_ray.exiting.look import Look, Swept
    from scpl_ray.exiting.sweep import Aim

SHARE = click.FloatRange(0, 1)


EXAMPLES = """\b
Examples:
  scpl-ray eval RUN --exit 2         the forward shortcut: one exit for all
  scpl-ray eval RUN --calibrate      fit the exits' temperatures, used from then on
  scpl-ray eval RUN --threshold 0.9  each sample leaves at the first sure exit
  scpl-ray eval RUN --sweep --max-compute 0.6 --plot sweep.png
"""


@click.command("eval", epilog=EXAMPLES)
@click.argument("run")
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True
)
@click.option("--exit", "which", metavar="K|all", help="Score this exit only; default: all.")
@click.option("--per-class", is_flag=True, help="Also accuracy by class.")
@click.option("--threshold", type=float, help="Leave early: at the first exit as sure as that.")
@measure_option
@click.option("--sweep", is_flag=True, help="Try all thresholds; choose one on validation.")
@click.option("--max-loss", type=SHARE, help="Accuracy that may be lost; with --sweep. [0.005]")
@click.option("--max-compute", type=SHARE, help="Share that may be run; with --sweep.")
@click.option(
    "--by",
    type=click.Choice(["flops", "layers"]),
    default="flops",
    show_default=True,
    help="What compute is.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.png",
    help="Also draw the sweep.",
)
@click.option("--calibrate", is_flag=True, help="Fit temperatures on validation; keep them.")
@temperatures_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(
    run: str,
    split: str,
    which: str | None,
    per_class: bool,
    threshold: float | None,
    measure: str,
    sweep: bool,
    max_loss: float | None,
    max_compute: float | None,
    by: str,
    plot: Path | None,
    calibrate: bool,
    wish: bool | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Score every exit of a finished run, and find out what leaving early is worth.

    RUN is a run's folder, or its name under runs/.

    Compute is the share of what the last exit alone takes: layers and FLOPs that are run, and
    CPU time, measured.
    """
    _check(which, threshold, sweep, (max_loss, max_compute), plot, calibrate, wish)
    from scpl_ray.run_folder import find_run

    folder = find_run(run)
    from scpl_ray.exiting.look import Look

    # Temperatures that are about to be fitted need not fit yet.
    look = Look(folder, split, False if calibrate else wish)
    stages = _exits(which, look.network.exits)
    if threshold is not None or sweep:
        _several(look)
    if calibrate:
        _calibrate(look, as_json)
        return
    if look.temperatures.said:
        click.echo(look.temperatures.said, err=True)
    elif threshold is not None or sweep:
        click.echo(
            "exits are not calibrated, so one threshold means more to one exit than to another; "
            f"mend it with: scpl-ray eval {run} --calibrate",
            err=True,
        )
    if threshold is not None:
        _leave(look, threshold, measure, per_class, as_json)
    elif sweep:
        from scpl_ray.exiting.sweep import Aim

        free = max_loss is None and max_compute is None
        aim = Aim(0.005 if free else max_loss, max_compute, by)  # type: ignore[arg-type]
        _sweep(look, measure, aim, plot, as_json)
    else:
        _score(look, stages, which not in (None, "all"), per_class, as_json)


def _check(
    which: str | None,
    threshold: float | None,
    sweep: bool,
    limits: tuple[float | None, float | None],
    plot: Path | None,
    calibrate: bool,
    wish: bool | None,
) -> None:
    """Refuses options that do not go together."""
    if sum([which is not None, threshold is not None, sweep, calibrate]) > 1:
        raise click.UsageError(
            "--exit, --threshold, --sweep and --calibrate are four things; give one"
        )
    if not sweep and limits != (None, None):
        raise click.UsageError("--max-loss and --max-compute choose among thresholds: add --sweep")
    if plot is not None and not sweep:
        raise click.UsageError("--plot draws the sweep: add --sweep")
    if plot is not None and plot.suffix != ".png":
        raise click.UsageError(f"--plot: {str(plot)!r} should end in .png")
    if plot is not None and not plot.parent.is_dir():
        raise click.UsageError(f"--plot: no folder {str(plot.parent)!r}")
    if calibrate and wish is False:
        raise click.UsageError("--calibrate fits temperatures; leave --no-temperatures out with it")


def _exits(which: str | None, there: list[int]) -> list[int]:
    if which is None or which == "all":
        return there
    if which.isdigit() and int(which) in there:
        return [int(which)]
    from scpl_ray.errors import ConfigError, nearest

    allowed = [*map(str, there), "all"]
    raise ConfigError(
        f"--exit: this run has no exit {which!r}; allowed: {', '.join(allowed)}."
        f"{nearest(which, allowed)}"
    )


def _several(look: Look) -> None:
    if len(look.network.exits) < 2:
        from scpl_ray.errors import ConfigError

        raise ConfigError(
            f"{look.folder}: method {look.network.config.method!r} has one exit, at stage "
            f"{look.network.exits[0]}, so nothing can leave early; train with method=dascpl"
        )


def _score(look: Look, stages: list[int], shortcut: bool, per_class: bool, as_json: bool) -> None:
    from scpl_ray.exiting.tables import (
        class_table,
        exit_table,
        exit_values,
        taken_text,
        taken_values,
    )

    rows = exit_values(look, stages)
    if shortcut:
        rows[0] |= taken_values(look.shortcut(stages[0]))
    if as_json:
        _json(look, {"exits": rows})
        return
    emit(exit_table(look, rows))
    if shortcut:
        click.echo(taken_text(rows[0]))
    if per_class:
        emit(class_table(look.collected(), rows))


def _calibrate(look: Look, as_json: bool) -> None:
    import dataclasses

    from scpl_ray.exiting.tables import fit_table

    fitted, path = look.fit()
    if as_json:
        _json(look, {"temperatures": [dataclasses.asdict(f) for f in fitted], "file": str(path)})
    else:
        emit(fit_table(fitted))
        click.echo(f"kept in {path}; used from now on (--no-temperatures leaves them out)")
    for own in fitted:
        if own.at_bound:
            click.echo(
                f"warning: exit {own.stage}: the temperature stopped at its bound; the validation "
                "split says too little of it",
                err=True,
            )


def _leave(look: Look, threshold: float, measure: str, per_class: bool, as_json: bool) -> None:
    from scpl_ray.errors import ConfigError
    from scpl_ray.exiting.tables import class_table, left_table, left_values, taken_text

    top = 1.0 if measure == "confidence" else math.log(look.classes)
    # Rounded up: the sweep writes log(classes) so.
    if not 0 <= threshold <= top + 1e-5:
        raise ConfigError(
            f"--threshold: {threshold:g}; allowed for --measure {measure}: 0 to {top:.5g}"
        )
    values = left_values(look, look.leave(threshold, measure))  # type: ignore[arg-type]
    if as_json:
        _json(look, {"threshold": threshold, "measure": measure} | values)
        return
    click.echo(look.title)
    emit(left_table(values, f"{measure} {threshold:g}"))
    click.echo(taken_text(values))
    if per_class:
        emit(class_table(look.collected(), [{"stage": "early", "per_class": values["per_class"]}]))


def _sweep(look: Look, measure: str, aim: Aim, plot: Path | None, as_json: bool) -> None:
    from scpl_ray.exiting.tables import sweep_tables, sweep_text, sweep_values

    swept: Swept = look.sweep(measure, aim)  # type: ignore[arg-type]
    if as_json:
        _json(look, sweep_values(swept))
    else:
        click.echo(look.title)
        for table in sweep_tables(swept):
            emit(table)
        click.echo("\n" + sweep_text(swept, look.split))
    if plot is not None:
        from scpl_ray.exiting.plot import draw

        title = f"{look.folder.name}: early exit on {look.network.info.name}, {look.split}"
        draw(swept.sweep, swept.timed, title, plot)
        click.echo(f"picture: {plot}", err=True)


def _json(look: Look, values: dict[str, Any]) -> None:
    head = {"run": str(look.folder), "split": look.split}
    click.echo(json.dumps(head | values, indent=2))
