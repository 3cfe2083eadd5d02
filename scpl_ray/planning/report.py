"""What `plan` prints: tables, or the same as plain values for JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.table import Table

from scpl_ray.planning.prediction import Plan

_NAMES = {
    "scpl": "scpl",
    "bp": "BP",
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "zb_h1": "ZB-H1",
}
_MOST_ROWS = 24
_EDGE = 8


def as_values(plan: Plan) -> dict[str, Any]:
    """Everything, with the derived figures; `costs` can be given to --costs again."""
    found = dataclasses.asdict(plan)
    found |= {"efficiency": plan.efficiency, "cut": plan.cut}
    for row, stage in zip(found["stages"], plan.stages, strict=True):
        row["memory"]["total"] = stage.memory.total
        row["seconds"] = stage.times.seconds
    return found


def tables(plan: Plan) -> list[Table]:
    """One of the stages, one of the ways to train."""
    return [_stages(plan), _ways(plan)]


def _stages(plan: Plan) -> Table:
    title = f"{plan.name}: {len(plan.stages)} stages, a batch"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    table.add_column("stage", justify="right")
    table.add_column("layers")
    for column in ("forward ms", "update ms", "busy", "memory MiB", "sends MiB", "held MiB"):
        table.add_column(column, justify="right")
    count = len(plan.stages)
    shown = range(count)
    skip = count > _MOST_ROWS
    for k in [*range(_EDGE), *range(count - _EDGE, count)] if skip else shown:
        stage = plan.stages[k]
        if skip and k == count - _EDGE:
            table.add_row("...", f"{count - 2 * _EDGE} more: --json")
        layers = stage.layers[0] if len(stage.layers) == 1 else (
            f"{stage.layers[0]} .. {stage.layers[-1]} ({len(stage.layers)})"
        )  # fmt: skip
        full = " FULL" if stage.fits is False else ""
        table.add_row(
            str(k + 1), layers, f"{1000 * stage.times.forward_s:.3f}",
            f"{1000 * stage.times.update_s:.3f}", f"{stage.busy:.2f}",
            f"{stage.memory.total:.1f}{full}", f"{stage.handed_mib:.2f}", f"{stage.held_mib:.1f}",
        )  # fmt: skip
    return table


def _ways(plan: Plan) -> Table:
    priced = any(way.epoch_cost is not None for way in plan.ways)
    timed = any(way.epoch_s is not None for way in plan.ways)
    table = Table(title="\nagainst end-to-end backpropagation", box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    columns = ["devices", "micro", "step ms", "busy", "memory MiB", "against BP"]
    columns += ["epoch s"] if timed else []
    columns += ["cost/epoch"] if priced else []
    for column in columns:
        table.add_column(column, justify="right")
    bp = next(way.step_s for way in plan.ways if way.kind == "bp")
    for way in plan.ways:
        row = [
            _NAMES[way.kind], str(way.devices), str(way.micro_batches),
            f"{1000 * way.step_s:.3f}", f"{way.efficiency:.2f}", f"{way.memory_mib:.1f}",
            f"{bp / way.step_s:.2f} x" if way.step_s > 0 else "",
        ]  # fmt: skip
        row += [f"{way.epoch_s:.2f}" if way.epoch_s is not None else ""] if timed else []
        row += [f"{way.epoch_cost:.4f}" if way.epoch_cost is not None else ""] if priced else []
        table.add_row(*row)
    return table


def text(plan: Plan) -> str:
    """The figures that matter, and what they rest on."""
    lines = [
        ("step", f"{1000 * plan.step_s:.3f} ms", f"limit {1000 * plan.limit_s:.3f} ms"),
        ("efficiency", f"{plan.efficiency:.3f}", "limit / step"),
        ("fill", f"{1000 * plan.fill_s:.1f} ms", "until the last stage begins"),
        ("batches a call", str(plan.per_call), f"{plan.window} calls in flight"),
        ("links", f"{sum(s.handed_mib for s in plan.stages):.2f} MiB", "a step, all of them"),
    ]
    if plan.steps_per_epoch is not None:
        lines.append(("steps an epoch", str(plan.steps_per_epoch), ""))
    rows = [f"{a:16}{b:>14}  {c}".rstrip() for a, b, c in lines]
    full = [k for k, stage in enumerate(plan.stages, 1) if stage.fits is False]
    if full:
        numbers = ", ".join(map(str, full[:10])) + (" ..." if len(full) > 10 else "")
        rows.append(f"does not fit into the device's memory: stage {numbers}")
    return "\n".join([*rows, "", *(f"- {note}" for note in plan.notes)])
