"""`scpl-ray bench`."""

from __future__ import annotations

import json

import click

from scpl_ray.cli.options import debug_option, emit


@click.command("bench")
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--pipeline", "what", flag_value="pipeline", default="pipeline", help="(The only one yet.)"
)
@click.option("--steps", type=click.IntRange(10), default=40, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(
    config: str | None,
    overrides: tuple[str, ...],
    what: str,
    steps: int,
    repeats: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Measure the pipeline against its slowest stage.

    Efficiency is the slowest stage's compute alone (same process settings, no Ray) divided by
    the streamed pipeline's step: 1.0 would mean that everything else is hidden. Without a CONFIG,
    two equal stages of about 100 ms a step.
    """
    import dataclasses

    from scpl_ray.bench.model import DEFAULT
    from scpl_ray.bench.pipeline import measure
    from scpl_ray.config import load_config

    if config is not None and "=" in config:
        overrides = (config, *overrides)
        config = None
    resolved = load_config(config if config is not None else DEFAULT, overrides)
    result = measure(resolved, steps, repeats)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), indent=2))
        return
    from rich.table import Table

    table = Table(title=f"pipeline of {resolved.name}: {len(result.alone_ms)} stages")
    table.add_column("stage")
    for name in ("alone, ms", "busy in the pipeline"):
        table.add_column(name, justify="right")
    for number, (alone, busy) in enumerate(zip(result.alone_ms, result.busy, strict=True), 1):
        table.add_row(str(number), f"{alone:.1f}", f"{busy:.0%}")
    emit(table)
    each = ", ".join(f"{r:.3f}" for r in result.efficiencies)
    click.echo(f"slowest stage alone  {max(result.alone_ms):8.1f} ms")
    click.echo(f"all stages in turn   {sum(result.alone_ms):8.1f} ms")
    click.echo(f"pipeline step        {result.step_ms:8.1f} ms   (fill {result.fill_ms:.0f} ms)")
    click.echo(f"efficiency           {result.efficiency:8.3f}      (repeats: {each})")
