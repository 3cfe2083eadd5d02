"""`scpl-ray report`."""

from __future__ import annotations

from pathlib import Path

import click

from scpl_ray.cli.options import debug_option


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write; default: report.html in the folder of the first RUN.",
)
@debug_option
def command(runs: tuple[str, ...], output: Path | None, debug: bool) -> None:
    """Write one HTML page of a run, or of several side by side.

    RUN is a run's folder, or its name under runs/; it need not have finished. The page holds all
    that it shows: it can be sent, and opened without a network.

        scpl-ray report runs/imdb
        scpl-ray report runs/bp-* runs/dascpl-* --output both.html
    """
    from scpl_ray.reporting.page import write_report

    click.echo(f"report: {write_report(list(dict.fromkeys(runs)), output)}")
