"""What commands share."""

from __future__ import annotations

import re
from typing import Any

import click

attached = False
"""Set by commands that join the Ray of a job: that Ray may end at any moment, and leaving it in
good order would then take a minute."""

debug_option = click.option("--debug", is_flag=True, help="Show tracebacks and Ray's own log.")

address_option = click.option(
    "--address", metavar="HOST:PORT", help="Look on this Ray cluster (also ray://HOST:10001)."
)
measure_option = click.option(
    "--measure",
    type=click.Choice(["confidence", "entropy"]),
    default="confidence",
    show_default=True,
    help="Sure is a confidence of at least the threshold, or an entropy (in nats) of at most it.",
)
temperatures_option = click.option(
    "--temperatures/--no-temperatures",
    "wish",
    default=None,
    help="Use RUN/temperatures.json or not; default: if it is there.",
)
job_argument = click.argument("job", required=False)


class Seconds(click.ParamType):
    """A duration: 90, 90s, 5m, 2h -> seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Reads it."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no duration; write 300s, 5m or 1h", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def mark_attached() -> None:
    """Says that this process has joined a job's Ray."""
    global attached
    attached = True


def emit(renderable: Any) -> None:
    """Prints something of rich on standard output."""
    from rich.console import Console

    Console().print(renderable)
