"""`scpl-ray`: finds the command, and turns errors into one clear message and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

import click

from scpl_ray import __version__
from scpl_ray.errors import ScplRayError, nearest

COMMANDS = {
    "train": "Train a network layer-parallel.",
    "list": "List the jobs that run, here or on a cluster.",
    "status": "Show what a running job does.",
    "grow": "Add a stage to a running job.",
    "shrink": "Take the last stage out of a running job.",
    "stop": "End a running job after a checkpoint.",
    "logs": "Print the log of a job.",
    "eval": "Score the exits of a finished run, and leave early.",
    "predict": "Answer texts and images with a finished run.",
    "serve": "Answer over HTTP with a finished run.",
    "export": "Write a finished run as torch.export, ONNX, or a Hugging Face folder.",
    "compare": "Put finished runs side by side.",
    "report": "Write an HTML page of a run, or of several.",
    "bench": "Measure the pipeline against its slowest stage.",
    "plan": "Predict time, memory and cost on other machines.",
    "schema": "Print the JSON Schema of the config.",
    "env": "Print what a bug report needs.",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"scpl_ray.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names the commands there are when one is unknown."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            known = ", ".join(COMMANDS)
            raise click.UsageError(
                f"no command {args[0]!r}; commands: {known}.{nearest(args[0], COMMANDS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scpl-ray")
def cli() -> None:
    """Train deep networks without end-to-end backpropagation, as a pipeline of Ray actors."""


def main() -> NoReturn:
    """Runs the command line: exit 0, 1 for a failure, 2 for what the user can mend, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing is left running", err=True)
        code = 130
    except ScplRayError as error:
        code = _report(error, debug)
    except BrokenPipeError:
        # The reader of a pipe has gone (`| head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(
            f"error: {type(error).__name__}: {error} (a fault of scpl-ray; --debug shows where)",
            err=True,
        )
        code = 1
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process; at once where it is attached to a Ray that may be ending."""
    from scpl_ray.cli import options

    if options.attached:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _report(error: ScplRayError, debug: bool) -> int:
    details = getattr(error, "details", "")
    if debug:
        click.echo(details or "".join(traceback.format_exception(error)), err=True)
    click.echo(f"error: {error}", err=True)
    return error.exit_code


def _terminate(signum: int, frame: FrameType | None) -> Any:
    """SIGTERM ends a run as Ctrl-C does."""
    raise KeyboardInterrupt
