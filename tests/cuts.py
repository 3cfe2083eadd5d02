"""Is the cut of `stages: auto` the best? `python -m tests.cuts` tries all cuts into two stages.

Each is measured by its slowest stage alone, on a network of unequal layers.
"""

from __future__ import annotations

import click

from scpl_ray.auto_cut import cut_layers
from scpl_ray.bench.alone import stages_alone
from scpl_ray.config import load_config
from scpl_ray.engine.data import load_data
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages

TREE = {
    "name": "cuts",
    "data": {"source": "digits"},
    "model": {"factory": "scpl_ray.bench.model:uneven"},
    "local": {"projection_head": {"kind": "linear", "out": 128}, "exit_head": {"kind": "linear"}},
    "train": {"batch_size": 256, "drop_last": True},
    "resources": {"threads": 1},
}


@click.command()
@click.option("--steps", default=8, show_default=True)
@click.option("--turns", default=3, show_default=True)
def main(steps: int, turns: int) -> None:
    """Prints the slowest stage of every cut, and of the one that auto chose."""
    config = load_config(TREE, ())
    chosen, line = cut_layers(load_config(TREE, ("stages=auto",)))
    click.echo(line)
    names = build_model(config, load_data(config)[1].info).names
    cuts = [[n, len(names) - n] for n in range(1, len(names))]
    slowest: dict[tuple[int, ...], list[float]] = {tuple(cut): [] for cut in cuts}
    for _ in range(turns):
        for cut in cuts:
            specs = plan_stages(config, partition(names, cut))
            slowest[tuple(cut)].append(max(stages_alone(config, specs, steps)))
    medians = {cut: sorted(times)[turns // 2] for cut, times in slowest.items()}
    for cut, ms in medians.items():
        mark = "  auto" if list(cut) == chosen.stages else ""
        click.echo(f"{list(cut)!s:10} {ms:8.1f} ms{mark}")
    own = medians.get(tuple(chosen.stages or ()))  # type: ignore[arg-type]
    if own is not None:
        click.echo(f"auto / best: {own / min(medians.values()):.3f}")


if __name__ == "__main__":
    main()
