"""What an option of a stage's process is worth: the stages alone, with it and without, in turns."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from rich.table import Table

from scpl_ray.bench.alone import stages_alone
from scpl_ray.config import Config, load_config
from scpl_ray.engine.data import load_data
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages
from scpl_ray.stage_facts import StageSpec

OPTIONS = ("resources.keep_freed_memory", "optimizer.fused", "resources.compile",
           "resources.channels_last")  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One option.

    Attributes:
        name: its key.
        on_ms: the slowest stage's step with it, of each turn.
        off_ms: without it.
    """

    name: str
    on_ms: list[float]
    off_ms: list[float]

    @property
    def ratios(self) -> list[float]:
        """Without / with, of each turn: above 1, it helps."""
        return [off / on for off, on in zip(self.off_ms, self.on_ms, strict=True)]


def effects(
    config: Config, steps: int, repeats: int, options: tuple[str, ...] = OPTIONS
) -> list[Effect]:
    """Measures all that can matter to the network of a config.

    Args:
        config: the job; what it says of an option itself is not regarded.
        steps: timed steps of each stage.
        repeats: turns.
        options: keys.
    """
    info = load_data(config)[1].info
    model = build_model(config, info)
    specs = plan_stages(config, partition(model.names, config.stages))
    names = [n for n in options if n != "resources.channels_last" or model.style == "image"]
    return [_effect(config, specs, name, steps, repeats) for name in names]


def _effect(config: Config, specs: list[StageSpec], name: str, steps: int, repeats: int) -> Effect:
    times: dict[bool, list[float]] = {True: [], False: []}
    configs = {on: load_config(config, [f"{name}={str(on).lower()}"]) for on in times}
    for turn in range(repeats):
        # Who comes first changes: the machine may be getting slower.
        for on in (True, False) if turn % 2 else (False, True):
            times[on].append(max(stages_alone(configs[on], specs, steps)))
    return Effect(name, times[True], times[False])


def options_table(name: str, found: list[Effect]) -> Table:
    """One row for each option."""
    turns = len(found[0].on_ms)
    table = Table(title=f"{name}: slowest stage alone, ms, medians of {turns} turns")
    for column in ("option", "without", "with", "without / with", "lowest to highest"):
        table.add_column(column, justify="left" if column == "option" else "right")
    for effect in found:
        table.add_row(
            effect.name.split(".")[1],
            f"{statistics.median(effect.off_ms):.2f}",
            f"{statistics.median(effect.on_ms):.2f}",
            f"{statistics.median(effect.ratios):.2f}",
            f"{min(effect.ratios):.2f} to {max(effect.ratios):.2f}",
        )
    return table
