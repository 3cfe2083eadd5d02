"""`scpl-ray grow`."""

from __future__ import annotations

from typing import Any

import click

from scpl_ray.cli.options import Seconds, address_option, debug_option, job_argument


@click.command("grow")
@job_argument
@click.option("--stages", type=click.IntRange(1), default=1, show_default=True)
@click.option("--layers", type=click.IntRange(1), help="Layers of each new stage; default: 1.")
@click.option(
    "--layer-config",
    "layer_config",
    multiple=True,
    metavar="FILE|KEY=VALUE",
    help="Keys of `model` that differ in the new layers: dropout=0.2, or a YAML file of them.",
)
@click.option("--num-gpus", type=click.FloatRange(0), help="GPUs (or a share of one).")
@click.option("--num-cpus", type=click.FloatRange(0), help="CPU cores to reserve.")
@click.option("--at-step", type=click.IntRange(1), help="Join at this step, or soon after.")
@click.option("--at-epoch", type=click.IntRange(1), help="Join after so many epochs.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it has joined.")
@click.option(
    "--timeout", type=Seconds(), default="300s", show_default=True, help="Give up after this."
)
@address_option
@debug_option
def command(
    job: str | None,
    stages: int,
    layers: int | None,
    layer_config: tuple[str, ...],
    num_gpus: float | None,
    num_cpus: float | None,
    at_step: int | None,
    at_epoch: int | None,
    wait: bool,
    timeout: float,
    address: str | None,
    debug: bool,
) -> None:
    """Add a stage to a job that is training; nothing stops.

    The new stage starts while training goes on and joins at one batch boundary. Its layers go on
    in the model's own pattern. JOB is a name or an id of `scpl-ray list`; it may be left out if
    one job runs.
    """
    from scpl_ray.cli.changes import request
    from scpl_ray.errors import JobError

    if at_step is not None and at_epoch is not None:
        raise JobError("give --at-step or --at-epoch, not both")
    if num_gpus is not None and num_gpus > 1 and num_gpus != int(num_gpus):
        raise JobError(
            f"--num-gpus {num_gpus:g}: a number above 1 must be whole; Ray gives whole GPUs or a "
            "share of one"
        )
    request(
        "grow",
        job,
        address,
        stages,
        wait,
        layers=layers,
        change=_changes(layer_config),
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        at_step=at_step,
        at_epoch=at_epoch,
        timeout_s=timeout,
    )


def _changes(given: tuple[str, ...]) -> dict[str, Any]:
    """Reads --layer-config: files and KEY=VALUE pairs, later ones win."""
    from pathlib import Path

    import yaml

    from scpl_ray.errors import ConfigError

    changes: dict[str, Any] = {}
    for text in given:
        key, equals, raw = text.partition("=")
        try:
            if equals and not Path(text).is_file():
                changes[key] = yaml.safe_load(raw)
                continue
            tree = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"--layer-config {text!r}: {str(error).splitlines()[0]}; give KEY=VALUE or a "
                "YAML file"
            ) from None
        if not isinstance(tree, dict):
            raise ConfigError(f"--layer-config {text!r}: it must hold KEY: VALUE lines")
        changes |= tree
    return changes
