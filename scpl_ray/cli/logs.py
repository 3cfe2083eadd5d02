"""`scpl-ray logs`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from scpl_ray.cli.options import address_option, debug_option, job_argument, mark_attached


@click.command("logs")
@job_argument
@click.option("-n", "--lines", type=click.IntRange(1), default=50, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@address_option
@debug_option
def command(job: str | None, lines: int, follow: bool, address: str | None, debug: bool) -> None:
    """Print the last lines of a job's log; of one that has ended too, if it was of this machine.

    JOB is a name or an id of `scpl-ray list --all`; default: the job that runs, or ran last.
    """
    from scpl_ray.jobs.record import choose, read_records

    records = read_records()
    if address is None:
        meant = [r for r in records if job in (None, r.id, r.name)]
        running = [r for r in meant if r.running]
        record = meant[-1] if meant and not running else choose(job, records)
        path = _log_of(record.id, Path(record.folder))
        if path is not None:
            try:
                _print(path, lines, follow, lambda: _runs(record.id))
            except KeyboardInterrupt:
                raise click.exceptions.Exit(130) from None
            return
    from scpl_ray.jobs.client import reach

    mark_attached()
    shown = reach(job, address).read()["log"]
    click.echo("\n".join(shown[-lines:]))
    if follow:
        click.echo("(the file is on another machine: --follow is not possible here)", err=True)


def _log_of(job_id: str, folder: Path) -> Path | None:
    from scpl_ray.jobs.record import state_dir

    for path in (folder / "log.txt", state_dir() / f"{job_id}.out"):
        if path.is_file():
            return path
    return None


def _runs(job_id: str) -> bool:
    from scpl_ray.jobs.record import read_records

    return any(r.id == job_id and r.running for r in read_records())


def _print(path: Path, lines: int, follow: bool, running: Callable[[], bool]) -> None:
    with path.open(encoding="utf-8") as file:
        for line in file.readlines()[-lines:]:
            click.echo(line, nl=False)
        while follow:
            alive = running()
            click.echo(file.read(), nl=False)
            if not alive:
                return
            time.sleep(0.5)
