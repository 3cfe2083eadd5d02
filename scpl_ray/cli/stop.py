"""`scpl-ray stop`."""

from __future__ import annotations

import click

from scpl_ray.cli.options import Seconds, address_option, debug_option, job_argument, mark_attached


@click.command("stop")
@job_argument
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it has ended.")
@click.option("--timeout", type=Seconds(), default="10m", show_default=True, help="Wait so long.")
@address_option
@debug_option
def command(job: str | None, wait: bool, timeout: float, address: str | None, debug: bool) -> None:
    """End a running job: what is in flight is trained, a checkpoint is written, all is freed."""
    from scpl_ray.errors import RunError
    from scpl_ray.jobs.client import mailbox_gone, new_command, reach, wait_ended
    from scpl_ray.jobs.record import ended_line

    mark_attached()
    reached = reach(job, address)
    reached.send(new_command("stop"))
    record = reached.record
    if not wait:
        click.echo(f"job {record.name!r} ends after a checkpoint")
        return
    try:
        last = wait_ended(record, lambda: mailbox_gone(record), timeout)
    except KeyboardInterrupt:
        click.echo("no longer waiting; the job ends all the same", err=True)
        raise click.exceptions.Exit(130) from None
    if last is None:
        click.echo(f"job {record.name!r} has ended; its results are in {record.folder}")
        return
    if last.status in ("failed", "died"):
        raise RunError(ended_line(last))
    click.echo(ended_line(last))
