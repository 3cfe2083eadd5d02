"""`scpl-ray train`."""

from __future__ import annotations

import click

from scpl_ray.cli.options import debug_option, emit


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
@click.option("--dry-run", is_flag=True, help="Print the resolved config and stop.")
@debug_option
def command(
    config: str,
    overrides: tuple[str, ...],
    name: str | None,
    overwrite: bool,
    engine: str | None,
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
    resolved = load_config(config, [*overrides, *extra])
    if dry_run:
        from scpl_ray.job_checks import check_before

        check_before(resolved)
        click.echo(dump_yaml(resolved), nl=False)
        return
    from scpl_ray.run_folder import RunFolder

    RunFolder(resolved, overwrite)  # a taken name is said before torch and Ray are imported
    from scpl_ray.job import train
    from scpl_ray.screen import best_reporter, final_table

    run = train(resolved, overwrite=overwrite, reporter=best_reporter(), debug=debug)
    emit(final_table(run.summary))
    summary = run.summary
    if summary["data"]["notice"]:
        click.echo(f"!!! {summary['data']['notice']}")
    click.echo(
        f"{summary['steps']} steps in {summary['train_seconds']:.1f} s, "
        f"{summary['samples_per_second']:,.0f} samples/s; all of it in {run.dir}"
    )
