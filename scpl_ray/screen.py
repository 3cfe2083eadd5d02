"""The live screen of a terminal, and the table at the end (rich)."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scpl_ray.engine.base import Done
from scpl_ray.exits import ExitResult
from scpl_ray.report import PlainReporter, Plan, Recent, Reporter


def best_reporter() -> Reporter:
    """The live screen on a terminal, plain lines elsewhere."""
    return LiveReporter() if sys.stdout.isatty() else PlainReporter()


class LiveReporter(Reporter):
    """One live screen: progress, and a row per stage.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.recent: Recent | None = None
        self.validation: dict[int, float] = {}
        self._live: Live | None = None
        self._drawn = 0.0

    def notice(self, text: str) -> None:
        """Shows a panel that cannot be missed."""
        self.console.print(Panel(Text(text, style="bold"), border_style="yellow", title="notice"))

    def info(self, text: str) -> None:
        """Shows a line."""
        self.console.print(Text(text, style="dim"))

    def started(self, plan: Plan) -> None:
        """Starts the live screen."""
        self.recent = Recent(plan)
        self._live = Live(self.render(), console=self.console, auto_refresh=False)
        self._live.start()

    def changed(self, plan: Plan) -> None:
        """Shows the stages of now."""
        assert self.recent is not None, "started() comes first"
        self.recent.plan = plan
        self._draw()

    def step(self, epoch: int, done: Done) -> None:
        """Redraws at most four times a second."""
        assert self.recent is not None, "started() comes first"
        self.recent.add(epoch, done)
        if time.perf_counter() - self._drawn > 0.25:
            self._draw()

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        """Puts the validation accuracy into the rows."""
        if split == "validation":
            self.validation = {e.stage: e.accuracy for e in exits}
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        if self._live is not None:
            self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """Draws the screen of this moment."""
        assert self.recent is not None, "started() comes first"
        recent, plan = self.recent, self.recent.plan
        total = plan.epochs * plan.steps_per_epoch
        head = Text.assemble(
            (plan.name, "bold"),
            f"  {plan.title}\n",
            f"epoch {recent.epoch + 1}/{plan.epochs}  step {recent.steps}/{total}  ",
            f"{recent.samples_per_second():,.0f} samples/s  ",
            f"ETA {clock(recent.eta_s())}",
        )
        bar = ProgressBar(total=total, completed=recent.steps)
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("stage")
        table.add_column("layers", overflow="ellipsis", max_width=26, no_wrap=True)
        for name in ("loss", "exit acc", "valid", "busy", "wait", "MiB"):
            table.add_column(name, justify="right", no_wrap=True)
        for position, spec in enumerate(plan.stages):
            row = recent.stage(spec.number)
            valid = self.validation.get(spec.number)
            if position >= plan.training or not row.steps:
                what = "joins" if position < plan.training else "left"
                table.add_row(str(spec.number), span(spec.layers), what, "-", percent(valid))
                continue
            table.add_row(
                str(spec.number),
                span(spec.layers),
                f"{row.loss:.3f}",
                percent(row.accuracy),
                percent(valid),
                f"{row.busy:.0%}",
                f"{1 - row.busy:.0%}",
                f"{row.memory_mib:,.0f}",
            )
        return Panel(Group(head, bar, Text(), table), border_style="cyan")

    def close(self) -> None:
        """Leaves the last picture on the screen."""
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None


def clock(seconds: float) -> str:
    """Seconds as M:SS or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def span(layers: tuple[str, ...]) -> str:
    """The first and the last of some layers."""
    return layers[0] if len(layers) == 1 else f"{layers[0]} .. {layers[-1]}"


def percent(value: float | None) -> str:
    """A share as per cent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


def final_table(summary: dict[str, Any]) -> Table:
    """Accuracy per exit on all splits."""
    table = Table(title=f"{summary['name']}: accuracy per exit", title_justify="left")
    table.add_column("exit at stage")
    for name in ("train", "validation", "test", "test loss"):
        table.add_column(name, justify="right")
    for row in summary["exits"]:
        loss = row["test_loss"]
        table.add_row(
            str(row["stage"]),
            *(percent(row[f"{s}_accuracy"]) for s in ("train", "validation", "test")),
            "-" if loss is None else f"{loss:.3f}",
        )
    return table
