"""What the benchmark commands make of their measurements."""

from __future__ import annotations

import pytest

from scpl_ray.bench.alone import stages_side_by_side
from scpl_ray.bench.model import DEFAULT
from scpl_ray.bench.options import Effect, effects
from scpl_ray.bench.pipeline import limit
from scpl_ray.config import Config, load_config
from scpl_ray.engine.data import load_data
from scpl_ray.engine.placement import num_cores
from scpl_ray.errors import NonFiniteLossError
from scpl_ray.models.registry import build_model
from scpl_ray.partition import partition
from scpl_ray.stage import plan_stages
from scpl_ray.stage_facts import StageSpec


def test_an_option_is_measured_with_and_without() -> None:
    config = load_config(DEFAULT, ["model.options.width=16", "resources.threads=1"])
    (fused,) = effects(config, 5, 1, ("optimizer.fused",))
    assert fused.name == "optimizer.fused" and fused.on_ms[0] > 0 and fused.off_ms[0] > 0


def test_above_one_the_option_helps() -> None:
    assert Effect("", on_ms=[2.0, 4.0], off_ms=[4.0, 6.0]).ratios == [2.0, 1.5]


def test_the_least_that_a_step_can_cost() -> None:
    cores = num_cores()
    assert limit([2.0, 3.0], 1) == pytest.approx(max(3.0, 5.0 / cores))
    assert limit([10.0] * 4 * cores, 1) == pytest.approx(40.0)
    assert limit([2.0, 30.0], 0, replicas=[1, 3]) == pytest.approx(10.0)


def two_stages(*overrides: str) -> tuple[Config, list[StageSpec]]:
    config = load_config(DEFAULT, ["model.options.width=16", "resources.threads=1", *overrides])
    names = build_model(config, load_data(config)[1].info).names
    return config, plan_stages(config, partition(names, 2))


def test_stages_side_by_side_are_timed_each() -> None:
    config, specs = two_stages()
    assert [ms > 0 for ms in stages_side_by_side(config, specs, 4)] == [True, True]


def test_a_stage_that_fails_is_heard_while_others_compute() -> None:
    config, specs = two_stages("optimizer.stages.2.lr=1e38")
    with pytest.raises(NonFiniteLossError, match="stage 2"):
        stages_side_by_side(config, specs, 4)
