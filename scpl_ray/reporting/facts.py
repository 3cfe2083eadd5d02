"""The figures of one run, as its page prints them: plain values, read strictly."""

from __future__ import annotations

from typing import Any

from scpl_ray.config.flat import flat
from scpl_ray.errors import CheckpointError
from scpl_ray.reporting.reading import Told

_SPLITS = ("train", "validation", "test")


def facts_of(told: Told) -> dict[str, Any]:
    """Everything that is not a picture.

    Raises:
        CheckpointError: the summary is not that of a run.
    """
    try:
        return {
            "name": told.name,
            "status": told.status,
            "path": str(told.path),
            "title": _title(told),
            "tiles": _tiles(told),
            "notices": _notices(told),
            "exits": [_exit(row) for row in told.summary.get("exits", ())],
            "changes": _changes(told),
            "stages": _stages(told),
            "failures": [_failure(row) for row in told.summary.get("failures", ())],
            "traced": told.traced,
            "summarized": bool(told.summary),
            "engine": str((told.config.get("pipeline") or {}).get("engine")),
            "changed_keys": changed_keys(told.config),
            "config_text": told.config_text,
            "environment": _environment(told),
            "log": told.log,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{told.path}: damaged: its files do not fit a run ({type(error).__name__}: {error})"
        ) from error


def marks_of(told: Told) -> list[tuple[int, str]]:
    """Step and mark of each change, for pictures: +3 joined, -3 left.

    Of a run without a summary: the first step of each stage that was not there from the start.
    """
    if not told.summary:
        firsts = {n: stage.steps[0] for n, stage in told.history.stages.items()}
        start = min(firsts.values(), default=0)
        return [(step, f"+{number}") for number, step in firsts.items() if step > start]
    return [
        (int(row["step"]), f"{sign}{int(row['stage'])}")
        for key, sign in (("grown", "+"), ("shrunk", "-"))
        for row in told.summary.get(key, ())
    ]


def changed_keys(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Keys that are not at their default: (key, value, default)."""
    from scpl_ray.config import Config

    default = flat(Config().model_dump(mode="json"))
    return [
        (key, _value(value), _value(default.get(key)))
        for key, value in flat(config).items()
        if key != "name" and value != default.get(key)
    ]


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def _title(told: Told) -> str:
    model = told.config.get("model") or {}
    data = told.summary.get("data") or told.config.get("data") or {}
    what = [
        told.config.get("method"),
        model.get("factory") or model.get("kind"),
        data.get("name") or data.get("source"),
    ]
    return ", ".join(str(word) for word in what if word)


def _tiles(told: Told) -> list[tuple[str, str, Any]]:
    """What one looks for first: (words, text, value)."""
    summary = told.summary
    tested = [row for row in summary.get("exits", ()) if row["test_accuracy"] is not None]
    tiles: list[tuple[str, str, Any]] = []
    if tested:
        last, best = tested[-1], max(tested, key=lambda row: float(row["test_accuracy"]))
        for row, which in [(last, "last")] + [(best, "best")] * (best is not last):
            accuracy = float(row["test_accuracy"])
            words = f"test accuracy, {which} exit ({int(row['stage'])})"
            tiles.append((words, f"{100 * accuracy:.2f} %", accuracy))
    steps = int(summary.get("steps", told.history.steps))
    tiles.append(("training steps", f"{steps:,}", steps))
    if "train_seconds" in summary:
        seconds, speed = float(summary["train_seconds"]), float(summary["samples_per_second"])
        tiles.append(("training", f"{seconds:,.1f} s", seconds))
        tiles.append(("speed", f"{speed:,.0f} samples/s", speed))
    memory = [m for stage in told.history.stages.values() for m in stage.memory_mib if m]
    if memory:
        tiles.append(("most memory of a stage", f"{max(memory):,.0f} MiB", max(memory)))
    return tiles


def _notices(told: Told) -> list[str]:
    summary, said = told.summary, []
    if told.status != "finished":
        error = str(summary.get("error") or "")
        said.append(f"This run is {told.status}" + (f": {error}" if error else "."))
    if notice := (summary.get("data") or {}).get("notice"):
        said.append(str(notice))
    if skipped := summary.get("skipped"):
        said.append(f"Batches left out, because they were not finite: {len(skipped)}")
    return said


def _exit(row: dict[str, Any]) -> dict[str, Any]:
    values = {split: row.get(f"{split}_accuracy") for split in _SPLITS}
    loss = row.get("test_loss")
    return {
        "stage": int(row["stage"]),
        "accuracies": [None if v is None else float(v) for v in values.values()],
        "test_loss": None if loss is None else float(loss),
    }


def _changes(told: Told) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "what": f"stage {int(row['stage'])} {word}",
            "step": int(row["step"]),
            "epoch": int(row["epoch"]),
            "layers": ", ".join(map(str, row["layers"])),
            "why": f"{row['by']}: {row['reason']}" if row.get("reason") else str(row["by"]),
            "seconds": _seconds(row.get("seconds")),
        }
        for key, word in (("grown", "joined"), ("shrunk", "left"))
        for row in told.summary.get(key, ())
    ]
    rows.sort(key=lambda row: row["step"])
    for row in told.summary.get("given_up", ()):
        what = f"{row['kind']} {row['state']}"
        rows.append({"what": what, "why": f"{row['by']}: {row['text']}"})
    return rows


def _seconds(seconds: dict[str, Any] | None) -> str:
    if not seconds:
        return ""
    parts = ", ".join(f"{k} {float(v):.1f}" for k, v in seconds.items() if k != "total")
    return f"{float(seconds['total']):.1f} s ({parts})"


def _stages(told: Told) -> list[dict[str, Any]]:
    layers = list(told.summary.get("stages", ()))
    rows = []
    for number, stage in sorted(told.history.stages.items()):
        losses = [loss for loss in stage.losses if loss is not None]
        memory = [m for m in stage.memory_mib if m]
        waiting = stage.waiting
        own = layers[number - 1] if number <= len(layers) else ()
        rows.append(
            {
                "stage": number,
                "layers": ", ".join(map(str, own)),
                "steps": len(stage.steps),
                "first_loss": losses[0] if losses else None,
                "last_loss": losses[-1] if losses else None,
                "step_ms": 1000 * stage.busy_s / max(1, len(stage.steps)),
                "busy": None if waiting is None else 1 - waiting,
                "waiting": waiting,
                "memory": max(memory) if memory else None,
            }
        )
    return rows


def _failure(row: dict[str, Any]) -> dict[str, Any]:
    step = int(row["step"])
    return {
        "who": str(row["who"]),
        "step": step if step >= 0 else "-",
        "cause": str(row["cause"]),
        "seconds": float(row["seconds"]),
    }


def _environment(told: Told) -> list[tuple[str, str]]:
    summary = told.summary
    rows = [
        (str(k), str(v))
        for key in ("machine", "versions")
        for k, v in (summary.get(key) or {}).items()
    ]
    for key in ("engine", "seed", "threads_per_stage", "replicas"):
        if key in summary:
            rows.append((key.replace("_", " "), str(summary[key])))
    data = summary.get("data") or {}
    for key in ("source", "classes", "train", "validation", "test", "label_noise"):
        if key in data:
            rows.append((f"data: {key.replace('_', ' ')}", str(data[key])))
    for number, digest in enumerate(summary.get("weights_sha256", ()), 1):
        rows.append((f"weights of stage {number}, sha256", str(digest)))
    return rows
