"""What commands share."""

from __future__ import annotations

from typing import Any

import click

debug_option = click.option("--debug", is_flag=True, help="Show tracebacks and Ray's own log.")


def emit(renderable: Any) -> None:
    """Prints something of rich on standard output."""
    from rich.console import Console

    Console().print(renderable)
