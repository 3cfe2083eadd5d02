"""`scpl-ray bench --methods`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scpl_ray.cli.options import emit

if TYPE_CHECKING:
    from scpl_ray.config import Config


def check_files(markdown: Path | None, plot: Path | None) -> None:
    """Says before hours of training what cannot be written after them."""
    from scpl_ray.errors import ConfigError

    if plot is not None and plot.suffix != ".png":
        raise ConfigError(f"--plot: {str(plot)!r} should end in .png")
    for option, path in (("--markdown", markdown), ("--plot", plot)):
        if path is not None and not path.resolve().parent.is_dir():
            raise ConfigError(f"{option}: no folder {str(path.parent)!r}; make it first")


def run(
    resolved: Config,
    names: list[str],
    repeats: int,
    markdown: Path | None,
    plot: Path | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Trains, and shows what came out.

    Args:
        resolved: the job.
        names: of the methods.
        repeats: seeds.
        markdown: where to write the table.
        plot: where to draw it.
        as_json: print JSON.
        debug: let Ray and the actors print.
    """
    from functools import partial

    from scpl_ray.bench.methods import COLUMNS, measure
    from scpl_ray.comparing import tables
    from scpl_ray.run_folder import write_atomically

    found = measure(resolved, names, repeats, partial(click.echo, err=True), debug)
    if as_json:
        click.echo(json.dumps(found.values(), indent=2))
    else:
        for table in tables.screen(found.rows, COLUMNS):
            emit(table)
        tell_tried(found.tried_ms)
    if markdown is not None:
        write_atomically(markdown, tables.markdown(found.rows, COLUMNS).encode())
        click.echo(f"table: {markdown}", err=True)
    if plot is not None:
        from scpl_ray.comparing.plot import draw

        draw(found.rows, plot)
        click.echo(f"picture: {plot}", err=True)


def tell_tried(tried_ms: dict[str, dict[int, float]]) -> None:
    """Steps by the number of micro-batches."""
    for kind, tried in tried_ms.items():
        each = ", ".join(f"{m}: {ms:.1f} ms" for m, ms in tried.items())
        click.echo(f"{kind}, by micro-batches: {each}")
