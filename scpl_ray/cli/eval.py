"""`scpl-ray eval`."""

from __future__ import annotations

import json

import click

from scpl_ray.cli.options import debug_option, emit


@click.command("eval")
@click.argument("run")
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(run: str, split: str, as_json: bool, debug: bool) -> None:
    """Score every exit of a finished run.

    RUN is a run's folder, or its name under runs/.
    """
    from scpl_ray.run_folder import find_run

    folder = find_run(run)
    import dataclasses

    from rich.table import Table

    from scpl_ray.evaluate import evaluate_run

    network, exits = evaluate_run(folder, split)
    if as_json:
        rows = [dataclasses.asdict(e) for e in exits]
        click.echo(json.dumps({"run": str(folder), "split": split, "exits": rows}, indent=2))
        return
    table = Table(title=f"{folder} on {network.info.name}, {split}", title_justify="left")
    table.add_column("exit at stage")
    for name in ("accuracy", "loss", "samples"):
        table.add_column(name, justify="right")
    for e in exits:
        table.add_row(str(e.stage), f"{100 * e.accuracy:.2f} %", f"{e.loss:.4f}", str(e.samples))
    emit(table)
