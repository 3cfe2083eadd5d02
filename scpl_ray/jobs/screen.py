"""How jobs look on a terminal of 80 columns (rich)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scpl_ray.elastic.request import ENDED
from scpl_ray.jobs.record import JobRecord
from scpl_ray.screen import clock, percent, span

_LATEST = 3


def job_table(records: list[JobRecord]) -> Table:
    """One row a job."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("job", overflow="fold")
    table.add_column("what", no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("who", overflow="ellipsis", max_width=16, no_wrap=True)
    table.add_column("folder", overflow="fold")
    for r in records:
        seen = r.progress
        table.add_row(
            r.id,
            r.status,
            f"{seen['epoch']}/{seen['epochs']}" if seen else "-",
            f"{seen['step']}/{seen['steps']}" if seen else "-",
            clock((r.ended_at or time.time()) - r.started_at),
            f"{r.user}@{r.host}",
            _near(r.folder),
        )
    return table


def render(view: dict[str, Any]) -> RenderableType:
    """The status of one job, as `Board.view` gives it."""
    parts: list[RenderableType] = [_head(view)]
    if "step" in view:
        parts.append(ProgressBar(total=view["steps"], completed=view["step"]))
        parts += [Text(), _stages(view["stages"])]
    changes = [_change(c) for c in view["changes"] if c["state"] not in ENDED]
    ended = [c for c in view["changes"] if c["state"] in ENDED]
    changes += [_change(c) for c in ended[-_LATEST:]]
    if changes:
        parts += [Text(), *changes]
    if failures := view.get("failures"):
        last = failures[-1]
        at = f" at step {last['step']}" if last["step"] >= 0 else ""
        parts += [
            Text(),
            Text(f"faults survived: {len(failures)}; the last: {last['who']}{at}, {last['cause']}"),
        ]
    if view.get("age_s", 0) > 10:
        parts.append(Text(f"the job last spoke {view['age_s']:.0f} s ago", style="yellow"))
    parts += [Text(), Text(f"{_near(view['folder'])}   {view['id']}", style="dim")]
    return Panel(
        Group(*parts), title=f"{view['phase']}: {view['name']}", title_align="left", padding=(0, 1)
    )


def _head(view: dict[str, Any]) -> Text:
    if "step" not in view:
        last = view["log"][-1][20:] if view["log"] else ""
        return Text(f"for {clock(view['running_s'])}; {last}")
    return Text.assemble(
        (f"epoch {view['epoch']}/{view['epochs']}  step {view['step']}/{view['steps']}", "bold"),
        f"  {view['samples_per_second']:,.0f} samples/s  "
        f"for {clock(view['running_s'])}, {clock(view['eta_s'])} left\n",
        (view["title"], "dim"),
    )


def _stages(stages: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("layers", overflow="ellipsis", max_width=24, no_wrap=True)
    for name in ("loss", "exit acc", "valid", "busy", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in stages:
        trains = row["state"] == "training"
        loss = row["loss"]
        table.add_row(
            str(row["stage"]),
            span(tuple(row["layers"])),
            ("joins" if loss is None else f"{loss:.3f}") if trains else "left",
            percent(row["exit_accuracy"]) if trains else "-",
            percent(row["validation_accuracy"]),
            f"{row['busy']:.0%}" if trains and row["busy"] is not None else "-",
            f"{row['memory_mib']:,.0f}" if trains and row["memory_mib"] else "-",
            style="" if trains else "dim",
        )
    return table


def _change(change: dict[str, Any]) -> Text:
    state, stage = change["state"], change["stage"]
    what = f"stage {stage}" if stage else change["kind"]
    if state in ("pending", "starting"):
        waited = f" ({change['waited_s']:.0f} s of {change['timeout_s']:.0f})"
        return Text(f"+ {what} {state}{waited}: {change['text']}", style="yellow")
    if state not in ENDED:
        when = f", due at step {change['not_before']}" if change["not_before"] else ""
        who = "" if change["by"] == "command" else f" ({change['by']})"
        return Text(f"+ {what} {state}{when}{who}  {change['text']}", style="cyan")
    if state == "done" and "total" in change["seconds"]:
        took = f"{change['seconds']['total']:.1f} s after it was asked for"
        return Text(f"  {what} joined at step {change['step']}, {took}", style="dim")
    if state == "done":
        return Text(f"  {change['text']}", style="dim")
    return Text(f"! {change['kind']} {state}: {change['text']}", style="red")


def _near(folder: str) -> str:
    """A folder, relative to where one is if it is below."""
    path = Path(folder)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else folder
