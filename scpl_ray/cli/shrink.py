"""`scpl-ray shrink`."""

from __future__ import annotations

import click

from scpl_ray.cli.options import address_option, debug_option, job_argument


@click.command("shrink")
@job_argument
@click.option("--stages", type=click.IntRange(1), default=1, show_default=True)
@click.option("--at-step", type=click.IntRange(1), help="Leave at this step.")
@click.option("--at-epoch", type=click.IntRange(1), help="Leave after so many epochs.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it has left.")
@address_option
@debug_option
def command(
    job: str | None,
    stages: int,
    at_step: int | None,
    at_epoch: int | None,
    wait: bool,
    address: str | None,
    debug: bool,
) -> None:
    """Take the last stage out of a job that is training.

    It finishes what it was sent, is saved, and frees its device; evaluation still uses it, and a
    later `grow` brings it back as it was. A growth that has not joined yet is taken back instead.
    """
    from scpl_ray.cli.changes import request
    from scpl_ray.errors import JobError

    if at_step is not None and at_epoch is not None:
        raise JobError("give --at-step or --at-epoch, not both")
    request("shrink", job, address, stages, wait, at_step=at_step, at_epoch=at_epoch)
