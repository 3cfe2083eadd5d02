"""`scpl-ray list`."""

from __future__ import annotations

import json
import os

import click

from scpl_ray.cli.options import address_option, debug_option, emit, mark_attached


@click.command("list")
@click.option("--all", "with_ended", is_flag=True, help="Also the jobs that have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@address_option
@debug_option
def command(with_ended: bool, as_json: bool, address: str | None, debug: bool) -> None:
    """List the jobs that run: yours on this machine, and all on the cluster at --address."""
    import dataclasses

    from scpl_ray.jobs.record import read_records

    if address or os.environ.get("RAY_ADDRESS"):
        from scpl_ray.jobs.client import known_jobs

        mark_attached()
        records = known_jobs(address)
    else:
        records = read_records()
    shown = [r for r in records if with_ended or r.running]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(r) for r in shown], indent=2))
        return
    if not shown:
        ended = len(records) - len(shown)
        click.echo("no job runs" + (f"; {ended} have ended (--all shows them)" if ended else ""))
        return
    from scpl_ray.jobs.screen import job_table

    emit(job_table(shown))
