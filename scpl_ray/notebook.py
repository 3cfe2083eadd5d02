"""The live screen inside a notebook: one output that is redrawn, without widgets."""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.text import Text

from scpl_ray.report import PlainReporter, Plan, Recent, Reporter
from scpl_ray.screen import LiveReporter

_WIDTH = 92
# The colours of the page stay; rich gives those of the words.
_FORMAT = (
    '<pre style="font-family: Menlo, Consolas, monospace; line-height: 1.25; margin: 0; '
    'white-space: pre; overflow-x: auto">{code}</pre>'
)


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook; a plain or an IPython shell is not."""
    found = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = found() if found is not None else None
    return getattr(shell, "kernel", None) is not None


def default_reporter() -> Reporter:
    """For `scpl_ray.train`: the live screen in a notebook, plain lines elsewhere."""
    return NotebookReporter() if in_notebook() else PlainReporter()


class NotebookReporter(LiveReporter):
    """Progress, and a row per stage, in the output of a cell."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), width=_WIDTH, force_jupyter=False))
        self._shown: Any = None

    def notice(self, text: str) -> None:
        """Shows a panel that cannot be missed."""
        from IPython.display import display

        panel = Panel(Text(text, style="bold"), border_style="yellow", title="notice")
        display(_html(panel))

    def info(self, text: str) -> None:
        """Prints a line."""
        print(text)

    def started(self, plan: Plan) -> None:
        """Shows the screen."""
        from IPython.display import display

        self.recent = Recent(plan)
        self._shown = display(_html(self.render()), display_id=True)

    def _draw(self) -> None:
        super()._draw()
        if self._shown is not None:
            self._shown.update(_html(self.render()))

    def close(self) -> None:
        """Leaves the last picture in the cell."""
        if self._shown is not None:
            self._draw()
            self._shown = None


def _html(drawn: RenderableType) -> Any:
    from IPython.display import HTML

    console = Console(file=io.StringIO(), record=True, width=_WIDTH, force_jupyter=False)
    console.print(drawn)
    return HTML(console.export_html(code_format=_FORMAT, inline_styles=True))
