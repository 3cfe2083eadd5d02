"""What the benchmarks print."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from scpl_ray.bench.measured import Measured
from scpl_ray.bench.pipeline import PARTS

_SHORT = {"optimizer": "optim", "waiting": "wait", "receive": "recv", "snapshot": "snap"}


def pipeline_tables(name: str, found: Measured) -> list[Table]:
    """Where each stage's time goes, and what every process costs."""
    title = f"{name}: milliseconds a step, medians of {len(found.turns)} turns"
    parts = Table(title=title, box=None, padding=(0, 1, 0, 0))
    parts.add_column("stage")
    for column in ("alone", "beside", *PARTS, "CPU", "MiB"):
        parts.add_column(_SHORT.get(column, column), justify="right")
    for i, alone in enumerate(found.alone_ms):
        spent = [_median([turn.parts_ms[i][part] for turn in found.turns]) for part in PARTS]
        cpu = _median([turn.compute_ms[i] for turn in found.turns])
        row = (f"{v:.2f}" for v in (alone, found.beside_ms[i], *spent, cpu))
        parts.add_row(str(i + 1), *row, f"{found.grown_mib[i]:.0f}")
    processes = Table(title="\nCPU milliseconds a step", box=None)
    processes.add_column("process")
    processes.add_column("CPU", justify="right")
    processes.add_column("of it compute", justify="right")
    number = {f"stage {i}": i - 1 for i in range(1, len(found.alone_ms) + 1)}
    for kind in sorted(found.turns[0].cpu_ms, key=lambda k: (k in number, number.get(k, 0))):
        cost = _median([turn.cpu_ms.get(kind, 0.0) for turn in found.turns])
        own = ""
        if kind in number:
            own = f"{_median([turn.compute_ms[number[kind]] for turn in found.turns]):.2f}"
        processes.add_row(kind, f"{cost:.2f}", own)
    return [parts, processes]


def pipeline_text(found: Measured) -> str:
    """The figures that matter."""
    stages, threads = len(found.alone_ms), found.threads
    shared = stages * threads > found.cores
    what = f"all stages / {found.cores} cores" if shared else "slowest stage alone"
    each = ", ".join(f"{r:.3f}" for r in found.efficiencies)
    lines = [
        (what, f"{found.limit_ms:9.2f} ms", "the least that a step can cost"),
        ("all stages in turn", f"{sum(found.alone_ms):9.2f} ms", "one process, one thread"),
        ("pipeline step", f"{found.step_ms:9.2f} ms", f"fill {_of(found, 'fill_ms'):.0f} ms"),
        ("efficiency", f"{found.efficiency:9.3f}   ", f"turns: {each}"),
        (
            "of what is possible",
            f"{found.of_machine:9.3f}   ",
            "limit / step with the stages computing side by side without Ray",
        ),
        (
            "overhead",
            f"{_of(found, 'overhead_ms'):9.2f} ms",
            "CPU time outside compute, per step and stage",
        ),
        ("moved", f"{_of(found, 'moved_mib'):9.2f} MiB", "a step, all borders"),
        ("batches a call", f"{found.turns[-1].per_call:9d}", ""),
    ]
    return "\n".join(f"{a:24}{b:14} {c}".rstrip() for a, b, c in lines)


def scaling_table(rows: dict[int, tuple[float, float, float, float]]) -> Table:
    """Overhead against the number of stages."""
    table = Table(title="tiny stages: milliseconds a step, medians")
    for column in (
        "stages",
        "step",
        "CPU of compute",
        "CPU outside compute, a stage",
        "stage 2, MiB",
    ):
        table.add_column(column, justify="right")
    for number, (*values, grown) in rows.items():
        table.add_row(str(number), *(f"{v:.2f}" for v in values), f"{grown:.0f}")
    return table


def _of(found: Measured, what: str) -> float:
    return _median([getattr(turn, what) for turn in found.turns])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
