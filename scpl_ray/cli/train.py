"""`scpl-ray train`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from scpl_ray.cli.options import debug_option, emit

if TYPE_CHECKING:
    from scpl_ray.config import Config
    from scpl_ray.trained import TrainedRun


@click.command("train")
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--name", help="Name of the run; default: the config's, or its file's.")
@click.option("--overwrite", is_flag=True, help="Replace a run of the same name.")
@click.option(
    "--engine",
    type=click.Choice(["ray", "local"]),
    help="ray: one actor per stage (default); local: all stages in this process.",
)
@click.option(
    "--init-from", metavar="RUN", help="Start from this run's weights (and vocabulary), by layer."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest checkpoint of the run of this name; without one, from the start.",
)
@click.option(
    "--from-step",
    type=int,
    metavar="STEP",
    help="See a step again: train anew from the newest checkpoint up to it (try --engine local).",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Train N times, with the seeds from the config's on, as NAME-seed1 and so on.",
)
@click.option("--trace", is_flag=True, help="Write a timeline: trace.png, trace.json in the run.")
@click.option("--detach", is_flag=True, help="Run in the background; see `list`, `logs`, `stop`.")
@click.option("--job-id", hidden=True)
@click.option("--dry-run", is_flag=True, help="Print the resolved config and stop.")
@debug_option
def command(
    config: str,
    overrides: tuple[str, ...],
    name: str | None,
    overwrite: bool,
    engine: str | None,
    init_from: str | None,
    resume: bool,
    from_step: int | None,
    repeats: int,
    trace: bool,
    detach: bool,
    job_id: str | None,
    dry_run: bool,
    debug: bool,
) -> None:
    """Train a network layer-parallel.

    CONFIG is a YAML file; KEY=VALUE pairs override it:

        scpl-ray train examples/imdb.yaml model.layers=6 train.batch_size=64
    """
    from scpl_ray.config import dump_yaml, load_config

    extra = [f"name={name}"] if name is not None else []
    extra += [f"pipeline.engine={engine}"] if engine is not None else []
    extra += [f"model.init_from={json.dumps(init_from)}"] if init_from is not None else []
    extra += ["output.trace=true"] if trace else []
    resolved = load_config(config, [*overrides, *extra])
    if dry_run:
        from scpl_ray.job_checks import check_before

        check_before(resolved)
        click.echo(dump_yaml(resolved), nl=False)
        return
    from scpl_ray.run_folder import RunFolder

    if repeats > 1 and (detach or from_step is not None):
        raise click.UsageError("--repeats goes neither with --detach nor with --from-step")
    each = [resolved] if repeats == 1 else _repetitions(resolved, repeats)
    if from_step is None:
        for one in each:
            RunFolder(one, overwrite, resume)  # said before torch and Ray are imported
    if detach:
        from scpl_ray.jobs.detach import start_detached

        options = [*overrides, *extra, *(["--overwrite"] if overwrite else [])]
        options += ["--resume"] if resume else []
        options += [] if from_step is None else ["--from-step", str(from_step)]
        try:
            for line in start_detached([config, *options], resolved.name):
                click.echo(line)
        except KeyboardInterrupt:
            click.echo("no longer watching; the job goes on: scpl-ray list", err=True)
            raise click.exceptions.Exit(130) from None
        return
    from scpl_ray.api import train
    from scpl_ray.screen import best_reporter

    runs = []
    for one in each:
        run = train(
            one,
            overwrite=overwrite,
            reporter=best_reporter(),
            debug=debug,
            job_id=job_id,
            resume=resume,
            from_step=from_step,
        )
        _tell(one, run)
        runs.append(run)
        if run.summary["status"] == "stopped":
            return
    if repeats > 1:
        from scpl_ray.comparing.rows import rows_of
        from scpl_ray.comparing.runs import grouped, read_run
        from scpl_ray.comparing.tables import screen

        for table in screen(rows_of(grouped([read_run(run.dir) for run in runs]))):
            emit(table)


def _repetitions(config: Config, repeats: int) -> list[Config]:
    """The same experiment with other seeds."""
    from scpl_ray.config import load_config

    seeds = range(config.seed, config.seed + repeats)
    return [load_config(config, [f"seed={s}", f"name={config.name}-seed{s}"]) for s in seeds]


def _tell(resolved: Config, run: TrainedRun) -> None:
    """What came out of a run."""
    from scpl_ray.screen import final_table

    if resolved.output.trace and (run.dir / "trace.png").exists():
        click.echo(
            f"timeline: {run.dir}/trace.png; {run.dir}/trace.json opens in https://ui.perfetto.dev"
        )
    if run.summary["status"] == "stopped":
        click.echo(
            f"stopped after {run.summary['steps']} steps; the weights of then are in {run.dir} "
            f"(scpl-ray eval {run.dir} scores them)"
        )
        return
    emit(final_table(run.summary))
    summary = run.summary
    if failures := summary.get("failures"):
        seconds = sum(failure["seconds"] for failure in failures)
        click.echo(f"faults survived: {len(failures)}, in {seconds:.1f} s; no batch was lost")
    if summary.get("skipped"):
        click.echo(f"!!! batches left out, because they were not finite: {len(summary['skipped'])}")
    if summary["data"]["notice"]:
        click.echo(f"!!! {summary['data']['notice']}")
    click.echo(
        f"{summary['steps']} steps in {summary['train_seconds']:.1f} s, "
        f"{summary['samples_per_second']:,.0f} samples/s; all of it in {run.dir}"
    )
