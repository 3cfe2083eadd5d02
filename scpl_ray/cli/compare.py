"""`scpl-ray compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from scpl_ray.cli.options import debug_option, emit


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.png",
    help="Also draw accuracy by exit, and speed.",
)
@debug_option
def command(runs: tuple[str, ...], form: str | None, plot: Path | None, debug: bool) -> None:
    """Put finished runs side by side.

    RUN is a run's folder (runs/NAME). Runs whose configs differ in nothing but seed and name are
    repetitions of one experiment: they share a row, with mean and standard deviation. Speed-up is
    samples a second against the first row's.

        scpl-ray compare runs/bp-* runs/dascpl-* --plot both.png
    """
    from scpl_ray.comparing.rows import rows_of
    from scpl_ray.comparing.runs import grouped, read_run
    from scpl_ray.comparing.tables import markdown, screen, values
    from scpl_ray.errors import ConfigError

    if plot is not None and plot.suffix != ".png":
        raise ConfigError(f"--plot: {str(plot)!r} should end in .png")
    rows = rows_of(grouped([read_run(run) for run in dict.fromkeys(runs)]))
    if form == "json":
        click.echo(json.dumps(values(rows), indent=2))
    elif form == "markdown":
        click.echo(markdown(rows), nl=False)
    else:
        for table in screen(rows):
            emit(table)
    if plot is not None:
        from scpl_ray.comparing.plot import draw

        draw(rows, plot)
        click.echo(f"picture: {plot}", err=True)
