"""What `grow` and `shrink` share: send requests to a job and tell what becomes of them."""

from __future__ import annotations

from typing import Any

import click

from scpl_ray.cli.options import mark_attached
from scpl_ray.errors import JobError, RunError

_SLACK_S = 60.0


def request(
    kind: str, job: str | None, address: str | None, count: int, wait: bool, **arguments: Any
) -> None:
    """Asks a job `count` times for a change.

    Raises:
        JobError: the job cannot be found, or refuses.
        RunError: the change did not come about.
    """
    from scpl_ray.jobs.client import new_command, reach

    mark_attached()
    reached = reach(job, address)
    commands = [new_command(kind, **arguments) for _ in range(count)]
    later = arguments.get("at_step") or arguments.get("at_epoch")
    limit = None if later else count * ((arguments.get("timeout_s") or 0.0) + _SLACK_S)
    name = reached.record.name
    bad: list[tuple[str, str]] = []
    taken: set[str] = set()
    try:
        for view in reached.ask(commands, limit):
            if view["state"] in ("refused", "given up", "failed", "withdrawn"):
                bad.append((view["state"], view["text"]))
            else:
                stage = f"stage {view['stage']}: " if view["stage"] else ""
                words = f"{stage}{view['state']}" + (f": {view['text']}" if view["text"] else "")
                if view["state"] == "queued" and view["not_before"]:
                    words = f"{kind} is due at step {view['not_before']}"
                click.echo(f"{name}: {view['text'] if view['state'] == 'done' else words}")
            taken.add(view["id"])
            if not wait and len(taken) == count:
                break
    except KeyboardInterrupt:
        click.echo("no longer waiting; the request stands: scpl-ray status shows it", err=True)
        raise click.exceptions.Exit(130) from None
    for state, text in bad:
        if state == "refused":
            raise JobError(f"job {name!r}: {kind}: {text}")
        raise RunError(f"job {name!r}: {kind} {state}: {text}; the job goes on as it was")
