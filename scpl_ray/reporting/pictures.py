"""Figures as what a page or a notebook shows; their texts are taken as they are, not as TeX."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context

# Not pyplot: it would choose, and keep, a backend for the whole process.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scpl_ray.reporting.figures import draw_accuracy, draw_losses
from scpl_ray.reporting.history import History

# A name with a dollar in it must not be read as a formula; equal runs give equal files.
_SETTINGS: Any = {"text.parse_math": False, "svg.hashsalt": "scpl-ray", "font.size": 9.0}


class RunFigure(Figure):
    """A figure that a notebook shows where it is the last value of a cell."""

    def _repr_png_(self) -> bytes:
        with rc_context(_SETTINGS):
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=110)
            return out.getvalue()


def picture(draw: Callable[[Any], None], height: float = 3.0) -> str:
    """Draws one axes and returns it as the address of an SVG that holds it all (`data:`)."""
    with rc_context(_SETTINGS):
        # Narrow, so that its words can be read on a phone too.
        figure = Figure(figsize=(5.4, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots())
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return data_address(out.getvalue(), "image/svg+xml")


def data_address(content: bytes, kind: str) -> str:
    """A file's bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def run_figure(history: History, changes: Sequence[tuple[int, str]], name: str) -> RunFigure:
    """Accuracy of each exit and loss of each stage over the epochs, with the changes of stages."""
    with rc_context(_SETTINGS):
        figure = RunFigure(figsize=(10.5, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        draw_accuracy(left, history, changes)
        draw_losses(right, history, changes)
        figure.suptitle(name, fontsize=10)
    return figure
