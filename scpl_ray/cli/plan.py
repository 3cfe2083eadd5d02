"""`scpl-ray plan`."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from typing import TYPE_CHECKING

import click

from scpl_ray.cli.options import debug_option, emit

if TYPE_CHECKING:
    from scpl_ray.config import Config
    from scpl_ray.planning.costs import Costs
    from scpl_ray.planning.devices import Device
    from scpl_ray.planning.prediction import Plan


@click.command("plan")
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--stages", type=click.IntRange(1), help="How many; default: as the config says.")
@click.option("--device", "device_name", metavar="NAME", help="Estimate for it: h100, a100, t4 ...")
@click.option("--link", "link_text", metavar="RATE", help="400Gb/s, 25GB/s; default: free.")
@click.option("--latency", default="0s", show_default=True, help="Of a link: 20us, 1ms.")
@click.option("--profile", is_flag=True, help="Measure the layers on this machine (default).")
@click.option(
    "--costs", "costs_file", type=click.Path(dir_okay=False), help="Layer costs: JSON or YAML."
)
@click.option("--cores", type=click.FloatRange(0, min_open=True), help="That stages share.")
@click.option("--samples", type=click.IntRange(1), help="Training samples of an epoch.")
@click.option("--price-per-hour", type=click.FloatRange(0), help="Of one device.")
@click.option(
    "--call-overhead", default="2ms", show_default=True, help="A call, beside its batches."
)
@click.option(
    "--batch-overhead", default="0.3ms", show_default=True, help="A batch, beside its compute."
)
@click.option(
    "--driver-overhead",
    default="4ms",
    show_default=True,
    help="A call of one stage, to the driver and Ray.",
)
@click.option("--check", is_flag=True, help="Run the real pipeline here too, and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(
    config: str,
    overrides: tuple[str, ...],
    stages: int | None,
    device_name: str | None,
    link_text: str | None,
    latency: str,
    profile: bool,
    costs_file: str | None,
    cores: float | None,
    samples: int | None,
    price_per_hour: float | None,
    call_overhead: str,
    batch_overhead: str,
    driver_overhead: str,
    check: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Predict step time, memory, traffic and cost, for stages and devices that are not here.

    The layers' costs are measured on this machine (--profile, the default), estimated for a
    device from FLOPs and published peaks (--device), or read from a file (--costs; what --json
    prints can be given again). From them the schedule of the pipeline is simulated, event by
    event, and, for comparison, backpropagation on one device, GPipe, 1F1B and zero bubble.

    Measured layers are taken to share this machine's cores; say --cores to have it otherwise.
    Given and estimated ones have a device for each stage.
    """
    from scpl_ray.config import load_config
    from scpl_ray.planning.devices import find_device
    from scpl_ray.planning.links import Link, parse_latency, parse_rate
    from scpl_ray.planning.plan import check_plannable, make_plan
    from scpl_ray.planning.prediction import Wish

    if profile and (device_name or costs_file):
        raise click.UsageError("--profile measures here; leave --device and --costs out with it")
    if check and (device_name or costs_file):
        raise click.UsageError(
            "--check compares with this machine; leave --device and --costs out with it"
        )
    link = Link(parse_latency(latency), math.inf if link_text is None else parse_rate(link_text))
    call_s = parse_latency(call_overhead, "--call-overhead")
    batch_s = parse_latency(batch_overhead, "--batch-overhead")
    driver_s = parse_latency(driver_overhead, "--driver-overhead")
    device = None if device_name is None else find_device(device_name)
    resolved = load_config(config, overrides)
    check_plannable(resolved)
    costs, steps, here = _costs(resolved, costs_file, device, stages)
    if samples is not None:
        size, drop = resolved.train.batch_size, resolved.train.drop_last
        steps = max(1, samples // size if drop else -(-samples // size))
    places = cores or (here if here is not None else math.inf)
    wish = Wish(stages, link, places, call_s, batch_s, driver_s, device, steps, price_per_hour)
    plan = make_plan(resolved, costs, wish)
    fits = len(plan.cut) > 1 and sum(plan.cut) <= len(costs.layers) and not resolved.replicas
    if here is not None and cores is None and fits:
        from scpl_ray.planning.measure import stages_beside

        wish = dataclasses.replace(
            wish, beside_s=stages_beside(resolved, [s.layers for s in plan.stages])
        )
        plan = make_plan(resolved, costs, wish)
    checked = _check(resolved, plan, len(costs.layers)) if check else None
    _print(plan, checked, as_json)


def _costs(
    config: Config, path: str | None, device: Device | None, stages: int | None
) -> tuple[Costs, int | None, float | None]:
    """Layer costs, steps of an epoch, and the places to compute where stages share them."""
    if path is not None:
        from scpl_ray.planning.costs import read_costs

        return read_costs(path, repeats=not config.model.factory), None, None
    if device is not None:
        from scpl_ray.engine.data import load_data
        from scpl_ray.planning.estimate import estimate

        loader, ready = load_data(config)
        batch = loader.train_batch(0)
        return estimate(config, ready.info, batch, device), ready.steps_per_epoch, None
    from scpl_ray.engine.placement import num_cores
    from scpl_ray.planning.measure import IDLE_RAY, profile

    found = profile(config, stages)
    return found.costs, found.steps_per_epoch, (num_cores() - IDLE_RAY) / found.threads


def _check(config: Config, plan: Plan, layers: int) -> dict[str, float]:
    """Runs the real pipeline of the same cut: predicted and measured milliseconds a step."""
    from scpl_ray.bench.pipeline import stream
    from scpl_ray.errors import ConfigError

    if sum(plan.cut) > layers:
        raise ConfigError(
            f"--check: {len(plan.cut)} stages need more than the {layers} layers of the model; "
            f"allowed: 1 to {layers}"
        )
    turns, _ = stream(config.model_copy(update={"stages": plan.cut}), 40, 3)
    predicted, real = 1000 * plan.step_s, statistics.median(turn.step_ms for turn in turns)
    return {
        "predicted_ms": predicted,
        "measured_ms": real,
        "difference_percent": 100 * (predicted / real - 1),
    }


def _print(plan: Plan, checked: dict[str, float] | None, as_json: bool) -> None:
    from scpl_ray.planning.report import as_values, tables, text

    if as_json:
        values = as_values(plan) | ({} if checked is None else {"check": checked})
        click.echo(json.dumps(values, indent=2))
        return
    for table in tables(plan):
        emit(table)
    click.echo("\n" + text(plan))
    if checked is not None:
        click.echo(
            f"\ncheck: predicted {checked['predicted_ms']:.2f} ms, measured "
            f"{checked['measured_ms']:.2f} ms: {checked['difference_percent']:+.1f} %"
        )
