"""What `scpl-ray eval` found, as tables and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from scpl_ray.evaluate import Collected
from scpl_ray.exiting.calibration import Fitted, ece, per_class
from scpl_ray.exiting.look import CHOSEN_ON, Left, Look, Swept, Taken
from scpl_ray.exiting.sweep import Aim, Point
from scpl_ray.exiting.timing import Timed


def exit_values(look: Look, stages: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy, loss, calibration and accuracy by class of some exits."""
    collected = look.collected()
    names = look.network.info.label_names
    rows = []
    for result, logits in zip(collected.results(), collected.logits, strict=True):
        if result.stage in stages:
            classes = per_class(logits, collected.labels, look.classes)
            more = {
                "ece": ece(logits, collected.labels),
                "temperature": look.temperatures.values.get(result.stage),
                "per_class": dict(zip(names, classes, strict=True)),
            }
            rows.append(dataclasses.asdict(result) | more)
    return rows


def exit_table(look: Look, rows: Sequence[dict[str, Any]]) -> Table:
    """The exits, one a row."""
    calibrated = bool(look.temperatures.values)
    table = _table(
        look.title,
        "exit at stage", "accuracy", "loss", "ECE", "samples",
        *(["temperature"] if calibrated else []),
    )  # fmt: skip
    for row in rows:
        last = [f"{row['temperature']:g}"] if calibrated else []
        table.add_row(
            str(row["stage"]), _percent(row["accuracy"]), f"{row['loss']:.4f}",
            _percent(row["ece"]), str(row["samples"]), *last,
        )  # fmt: skip
    return table


def class_table(collected: Collected, rows: Sequence[dict[str, Any]]) -> Table:
    """Accuracy by class, one exit a column."""
    names = list(rows[0]["per_class"])
    table = _table("accuracy by class", "class", "samples", *(f"exit {r['stage']}" for r in rows))
    counts = collected.labels.bincount(minlength=len(names)).tolist()
    for name, count in zip(names, counts, strict=True):
        table.add_row(name, str(count), *(_percent(row["per_class"][name]) for row in rows))
    return table


def fit_table(fitted: Sequence[Fitted]) -> Table:
    """Temperatures, and what they change on the samples that they were fitted on."""
    table = _table(
        f"temperatures, fitted on {CHOSEN_ON}",
        "exit at stage", "temperature", "loss", "calibrated", "ECE", "calibrated",
    )  # fmt: skip
    for f in fitted:
        table.add_row(
            str(f.stage), f"{f.temperature:g}", f"{f.loss_before:.4f}", f"{f.loss_after:.4f}",
            _percent(f.ece_before), _percent(f.ece_after),
        )  # fmt: skip
    return table


def left_values(look: Look, left: Left) -> dict[str, Any]:
    """Early exit by one rule."""
    stages = look.network.exits
    names = look.network.info.label_names
    classes = per_class(left.logits, left.labels, look.classes)
    return {
        "accuracy": left.accuracy,
        "last_exit_accuracy": left.last,
        "ece": ece(left.logits, left.labels),
        "exits": [
            {"stage": stage, "answered": n, "accuracy": right}
            for stage, n, right in zip(stages, left.answered, left.right, strict=True)
        ],
        **taken_values(left.taken),
        "per_class": dict(zip(names, classes, strict=True)),
    }


def taken_values(taken: Taken) -> dict[str, float]:
    """Shares of what the last exit takes, and milliseconds."""
    return {
        "layers": taken.layers,
        "flops": taken.flops,
        "time": taken.timed.share,
        "ms_per_sample": taken.timed.ms_per_sample,
        "last_exit_ms_per_sample": taken.whole_ms,
    }


def left_table(values: dict[str, Any], rule: str) -> Table:
    """Who answered how much, and how well."""
    total = sum(row["answered"] for row in values["exits"])
    table = _table(f"early exit at {rule}", "answered by", "samples", "share", "accuracy")
    for row in values["exits"]:
        table.add_row(
            f"exit {row['stage']}", str(row["answered"]), _percent(row["answered"] / total, 1),
            _percent(row["accuracy"]),
        )  # fmt: skip
    table.add_section()
    table.add_row("all", str(total), "", _percent(values["accuracy"]))
    table.add_row("last exit alone", str(total), "", _percent(values["last_exit_accuracy"]))
    return table


def sweep_values(swept: Swept) -> dict[str, Any]:
    """The whole sweep; time where it was measured."""
    sweep = swept.sweep

    def row(point: Point) -> dict[str, Any]:
        timed = swept.timed.get(point.threshold)
        answered = dict(zip(map(str, sweep.stages), point.answered, strict=True))
        return dataclasses.asdict(point) | {
            "answered": answered,
            "time": None if timed is None else timed.share,
        }

    best = sweep.at_best
    return {
        "measure": sweep.measure,
        "chosen_on": CHOSEN_ON,
        "temperatures": {str(stage): t for stage, t in sweep.temperatures.items()},
        "aim": dataclasses.asdict(sweep.aim),
        "last_exit": {
            "accuracy": sweep.last,
            f"{CHOSEN_ON}_accuracy": sweep.last_chosen,
            "ms_per_sample": swept.whole_ms,
        },
        "shortcuts": [
            {"stage": s, "accuracy": a, "layers": layers, "flops": flops, "time": timed.share}
            for s, (a, layers, flops), timed in zip(
                sweep.stages, sweep.shortcuts, swept.shortcuts, strict=True
            )
        ],
        "best": None if best is None else row(best),
        f"best_on_{CHOSEN_ON}": None if sweep.best is None else dataclasses.asdict(sweep.best),
        "points": [row(point) for point in sweep.points],
    }


def sweep_tables(swept: Swept) -> list[Table]:
    """Early exit by threshold, and each exit alone."""
    sweep = swept.sweep
    shares = ("layers", "FLOPs", "CPU time")
    who = f"answered by exit {' | '.join(map(str, sweep.stages))}"
    early = _table(
        f"early exit by {sweep.measure}; all in %", "threshold", "accuracy", *shares, who
    )
    for p in swept.rows:
        best = sweep.best is not None and p.threshold == sweep.best.threshold
        early.add_row(
            f"{'* ' if best else ''}{p.threshold:g}", f"{100 * p.accuracy:.2f}",
            *_shares(p.layers, p.flops, swept.timed[p.threshold]),
            " | ".join(f"{100 * share:3.0f}" for share in p.answered),
            style="bold" if best else "",
        )  # fmt: skip
    alone = _table("one exit for all (--exit K); all in %", "exit at stage", "accuracy", *shares)
    for stage, (accuracy, layers, flops), timed in zip(
        sweep.stages, sweep.shortcuts, swept.shortcuts, strict=True
    ):
        alone.add_row(str(stage), f"{100 * accuracy:.2f}", *_shares(layers, flops, timed))
    return [early, alone]


def sweep_text(swept: Swept, split: str) -> str:
    """Which threshold is best, in words."""
    sweep, best = swept.sweep, swept.sweep.at_best
    aim = _aim(sweep.aim)
    if best is None or sweep.best is None:
        return f"no threshold gives {aim} on {CHOSEN_ON}"
    text = (
        f"* {sweep.measure} {best.threshold:g}: best for {aim} on {CHOSEN_ON} (there "
        f"{_percent(sweep.best.accuracy)} of {_percent(sweep.last_chosen)} with "
        f"{_percent(sweep.best.flops, 1)} of the FLOPs)"
    )
    if split == CHOSEN_ON:
        return f"{text}; chosen and reported on the same samples, so better than it will be"
    points, timed = 100 * (best.accuracy - sweep.last), swept.timed[best.threshold]
    change = "which is the last exit's"
    if abs(points) > 1e-6:
        change = f"{abs(points):.2f} points {'above' if points > 0 else 'below'} the last exit's"
    return (
        f"{text}; on {split} {_percent(best.accuracy)}, {change}, with "
        f"{_percent(best.flops, 1)} of the FLOPs and {_percent(timed.share, 1)} of the CPU time"
    )


def taken_text(values: dict[str, Any]) -> str:
    """What a way of answering took, of `taken_values`."""
    return (
        f"run: {_percent(values['layers'], 1)} of the layers, {_percent(values['flops'], 1)} of "
        f"the FLOPs; {_percent(values['time'], 1)} of the CPU time ({values['ms_per_sample']:.3f} "
        f"against {values['last_exit_ms_per_sample']:.3f} ms a sample)"
    )


def _aim(aim: Aim) -> str:
    parts = []
    if aim.max_loss is not None:
        parts.append(f"at most {100 * aim.max_loss:g} points below the last exit")
    if aim.max_compute is not None:
        what = "FLOPs" if aim.by == "flops" else "layers"
        parts.append(f"at most {_percent(aim.max_compute, 0)} of the {what}")
    return " and ".join(parts)


def _shares(layers: float, flops: float, timed: Timed) -> list[str]:
    return [f"{100 * share:.1f}" for share in (layers, flops, timed.share)]


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
