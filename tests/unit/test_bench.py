"""What the benchmark commands make of their measurements."""

from __future__ import annotations

import pytest

from scpl_ray.bench.model import DEFAULT
from scpl_ray.bench.options import Effect, effects
from scpl_ray.bench.pipeline import limit
from scpl_ray.config import load_config
from scpl_ray.engine.placement import num_cores


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
