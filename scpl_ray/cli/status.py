"""`scpl-ray status`."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from scpl_ray.cli.options import (
    address_option,
    debug_option,
    emit,
    job_argument,
    mark_attached,
)


@click.command("status")
@job_argument
@click.option("--watch", is_flag=True, help="Keep showing it until the job ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (with --watch: a line a second).")
@address_option
@debug_option
def command(job: str | None, watch: bool, as_json: bool, address: str | None, debug: bool) -> None:
    """Show what a running job does: progress, stages, what joins or leaves.

    JOB is a name or an id of `scpl-ray list`; it may be left out if one job runs.
    """
    from scpl_ray.errors import JobError
    from scpl_ray.jobs.record import ended_line, read_records

    if address is None:
        records = [r for r in read_records() if job in (r.id, r.name)]
        if records and not any(r.running for r in records):
            click.echo(ended_line(records[-1]))
            return
    from scpl_ray.jobs.client import find, reach

    record = find(job, address)
    if record.engine == "local":
        import dataclasses

        from scpl_ray.jobs.screen import job_table

        tree = dataclasses.asdict(record)
        click.echo(json.dumps(tree, indent=2)) if as_json else emit(job_table([record]))
        return
    mark_attached()
    reached = reach(record.id, address)
    if not watch:
        _show(reached.read(), as_json)
        return
    try:
        _watch(reached, as_json)
    except JobError as error:
        click.echo(str(error))
    except KeyboardInterrupt:
        click.echo("no longer watching; the job goes on")


def _show(view: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(view, indent=2))
        return
    from scpl_ray.jobs.screen import render

    emit(render(view))


def _watch(reached: Any, as_json: bool) -> None:
    from rich.live import Live

    from scpl_ray.jobs.screen import render

    if as_json:
        while True:
            click.echo(json.dumps(reached.read()))
            time.sleep(1.0)
    with Live(render(reached.read()), auto_refresh=False) as live:
        while True:
            time.sleep(1.0)
            live.update(render(reached.read()), refresh=True)
