"""`scpl-ray bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scpl_ray.cli.bench_methods import check_files, run, tell_tried
from scpl_ray.cli.options import Seconds, debug_option, emit

if TYPE_CHECKING:
    from scpl_ray.config import Config


@click.command("bench")
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--pipeline", "what", flag_value="pipeline", default=True, help="The step's time (default)."
)
@click.option(
    "--scaling", "what", flag_value="scaling", help="The overhead of 2, 4, 8 and 16 tiny stages."
)
@click.option(
    "--compare",
    "what",
    flag_value="compare",
    help="The step against BP, GPipe, 1F1B and zero-bubble.",
)
@click.option("--options", "what", flag_value="options", help="What each option is worth.")
@click.option("--growth", "what", flag_value="growth", help="What it costs that a stage joins.")
@click.option("--snapshots", "what", flag_value="snapshots", help="What snapshots cost.")
@click.option(
    "--methods",
    metavar="LIST",
    help="Train and score these methods: bp, bp-one-core, gpipe, 1f1b, zero-bubble, scpl, ...",
)
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="With --methods: write the table as Markdown too.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.png",
    help="With --methods: draw accuracy by exit, and speed.",
)
@click.option(
    "--turn", type=Seconds(), default="60s", show_default=True, help="A turn of --snapshots."
)
@click.option(
    "--steps",
    type=click.IntRange(10),
    default=40,
    show_default=True,
    help="Timed steps of a turn, at least; of the pipeline always twice what is under way.",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--span", type=Seconds(), default="4s", show_default=True, help="Steady state around a growth."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(
    config: str | None,
    overrides: tuple[str, ...],
    what: str,
    methods: str | None,
    markdown: Path | None,
    plot: Path | None,
    steps: int,
    repeats: int,
    span: float,
    turn: float,
    as_json: bool,
    debug: bool,
) -> None:
    """Measure the pipeline against its slowest stage, or what a growth costs.

    --pipeline: efficiency is the slowest stage's compute alone (same process settings, no Ray)
    divided by the streamed pipeline's step: 1.0 would mean that everything else is hidden.

    Beside it stands the same for stages that compute side by side without Ray: what processes that
    compute at once cost each other is the machine's, not the pipeline's.

    Of each stage it also says where its time goes, and of each process the CPU time a step.

    --scaling: CPU time outside the stages' compute, per step and stage, of 2, 4, 8 and 16 stages
    of about a millisecond.

    --compare: end-to-end backpropagation over the same layers on the same cores, in turns: in one
    process with one thread and with all, and as GPipe, 1F1B and zero-bubble
    (torch.distributed.pipelining) with their best number of micro-batches.

    --methods: trains the network by each method for the config's epochs with the same data,
    batches, optimizer and seeds (--repeats of them), scores all exits, and puts accuracy, time,
    memory and waiting side by side. bp: one process with all cores; bp-one-core: with one thread;
    gpipe, 1f1b, zero-bubble: torch.distributed.pipelining, one process a stage, micro-batches by
    trial; bp-stages and the methods of `train` (scpl, dascpl, ee, ...): through Ray.

        scpl-ray bench CONFIG --methods bp,gpipe,1f1b,scpl,dascpl --repeats 3 --plot all.png

    --options: the slowest stage alone with compile, channels_last, fused and keep_freed_memory
    against without, one option at a time, in turns.

    --growth: steps a second of stage 1 in bins of one second around the moment at which a stage
    is asked for, the longest gap between two of its steps, and the time until the new stage works.

    --snapshots: steps a second with snapshots and checkpoints (as the config says; by default a
    checkpoint a minute) against without, in turns and in the same processes.

    Without a CONFIG, equal stages of about 100 ms a step: two, or for --growth as many as leave
    one core free.
    """
    from scpl_ray.bench.model import DEFAULT
    from scpl_ray.config import load_config

    if config is not None and "=" in config:
        overrides = (config, *overrides)
        config = None
    if methods is None and (markdown is not None or plot is not None):
        raise click.UsageError("--markdown and --plot go with --methods")
    if methods is not None:
        from scpl_ray.bench.methods import read_names

        if what != "pipeline":
            raise click.UsageError(f"--methods does not go with --{what}")
        if config is None:
            raise click.UsageError("--methods trains to the end: say what, by a CONFIG")
        names = read_names(methods)
        check_files(markdown, plot)
        resolved = load_config(config, overrides)
        run(_cut(resolved), names, repeats, markdown, plot, as_json, debug)
    elif what == "growth":
        from scpl_ray.bench.model import default_for_growth

        base = config if config is not None else default_for_growth()
        _growth(load_config(base, overrides), repeats, span, as_json)
    elif what == "compare":
        base = config if config is not None else DEFAULT
        _compare(_cut(load_config(base, overrides)), steps, repeats, as_json)
    elif what == "options":
        base = config if config is not None else DEFAULT
        _options(_cut(load_config(base, overrides)), steps, repeats, as_json)
    elif what == "scaling":
        if config is not None:
            raise click.UsageError("--scaling brings its own networks; leave CONFIG out")
        _scaling((2, 4, 8, 16), overrides, steps, repeats)
    elif what == "snapshots":
        base = config if config is not None else DEFAULT
        _snapshots(_cut(load_config(base, overrides)), repeats, turn, as_json)
    else:
        base = config if config is not None else DEFAULT
        _pipeline(_cut(load_config(base, overrides)), steps, repeats, as_json)


def _cut(config: Config) -> Config:
    from scpl_ray.auto_cut import cut_layers

    config, line = cut_layers(config)
    if line:
        click.echo(line, err=True)
    return config


def _growth(resolved: Config, repeats: int, span: float, as_json: bool) -> None:
    import dataclasses

    from rich.table import Table

    from scpl_ray.bench.growth import measure, median_of

    growths = measure(resolved, repeats, span)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(g) for g in growths], indent=2))
        return
    for number, growth in enumerate(growths, 1):
        click.echo(f"growth {number}: steps that stage 1 finished in each second")
        table = Table(box=None)
        table.add_column("second", justify="right")
        table.add_column("steps", justify="right")
        table.add_column("")
        joined = growth.seconds["total"]
        for second, steps in growth.bins.items():
            mark = "asked for" if second == 0 else ""
            mark = "the new stage works" if int(joined) == second else mark
            table.add_row(str(second), str(steps), mark)
        emit(table)
        parts = ", ".join(f"{k} {v:.2f}" for k, v in growth.seconds.items() if k != "total")
        click.echo(
            f"{growth.before:.2f} steps/s before, {growth.after:.2f} after; longest gap "
            f"{growth.gap_ms:.0f} ms = {growth.gap_ratio:.2f} x the median step "
            f"({growth.step_ms:.0f} ms); {joined:.1f} s to the first batch ({parts})\n"
        )
    gaps = sorted(g.gap_ratio for g in growths)
    each = ", ".join(f"{k} {median_of(growths, k):.2f}" for k in growths[0].seconds)
    click.echo(f"longest gap / median step: {', '.join(f'{g:.2f}' for g in gaps)}")
    click.echo(f"seconds, medians of {len(growths)}: {each}")


def _snapshots(resolved: Config, repeats: int, turn: float, as_json: bool) -> None:
    import dataclasses

    from scpl_ray.bench.snapshots import measure

    cost = measure(resolved, turn, repeats)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(cost), indent=2))
        return
    for name, values in (("without", cost.off), ("with", cost.on)):
        click.echo(f"steps/s {name:8}" + "".join(f"{v:8.3f}" for v in values))
    click.echo("ratio           " + "".join(f"{v:8.3f}" for v in cost.ratios))
    click.echo(
        f"median ratio {cost.ratio:.3f}; {cost.snapshots} snapshots of {cost.snapshot_ms:.0f} ms "
        f"({cost.share:.2%} of the stages' time), {cost.checkpoints} of them written "
        f"({cost.write_s:.1f} s each, beside the training)"
    )


def _pipeline(resolved: Config, steps: int, repeats: int, as_json: bool) -> None:
    import dataclasses

    from scpl_ray.bench.pipeline import measure
    from scpl_ray.bench.tables import pipeline_tables, pipeline_text

    result = measure(resolved, steps, repeats)
    if as_json:
        rows = {k: getattr(result, k) for k in ("limit_ms", "step_ms", "efficiency", "of_machine")}
        click.echo(json.dumps(rows | dataclasses.asdict(result), indent=2))
        return
    for table in pipeline_tables(resolved.name, result):
        emit(table)
    click.echo(pipeline_text(result))


def _compare(resolved: Config, steps: int, repeats: int, as_json: bool) -> None:
    import dataclasses

    from scpl_ray.bench.compare import compare, compare_table

    found = compare(resolved, steps, repeats)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    emit(compare_table(resolved.name, found))
    tell_tried(found.tried_ms)


def _options(resolved: Config, steps: int, repeats: int, as_json: bool) -> None:
    import dataclasses

    from scpl_ray.bench.options import effects, options_table

    found = effects(resolved, steps, repeats)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(e) for e in found], indent=2))
        return
    emit(options_table(resolved.name, found))


def _scaling(stages: tuple[int, ...], overrides: tuple[str, ...], steps: int, repeats: int) -> None:
    from scpl_ray.bench.model import tiny
    from scpl_ray.bench.pipeline import scaling
    from scpl_ray.bench.tables import scaling_table
    from scpl_ray.config import load_config

    configs = {n: load_config(tiny(n), overrides) for n in stages}
    emit(scaling_table(scaling(configs, steps, repeats)))
