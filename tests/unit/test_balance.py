"""The best cut is the best of all cuts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from scpl_ray.balance import balance, best_cut, stage_costs, useful_stages
from scpl_ray.profiling import LayerTimes


def all_cuts(layers: int, stages: int) -> Iterator[list[int]]:
    for borders in itertools.combinations(range(1, layers), stages - 1):
        ends = [0, *borders, layers]
        yield [b - a for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("seed", range(40))
def test_against_all_cuts(seed: int) -> None:
    draw = random.Random(seed)
    layers = draw.randint(1, 8)
    stages = draw.randint(1, layers)
    own = [draw.uniform(0.1, 5) for _ in range(layers)]
    heads = [draw.uniform(0, 2) for _ in range(layers)]
    speeds = [draw.choice([0.5, 1.0, 2.0]) for _ in range(stages)] if seed % 2 else None

    def cost(i: int, j: int) -> float:
        return sum(own[i : j + 1]) + heads[j]

    cut = best_cut(cost, layers, stages, speeds)
    assert sum(cut) == layers and len(cut) == stages and min(cut) >= 1
    slowest = [max(stage_costs(cost, other, speeds)) for other in all_cuts(layers, stages)]
    assert max(stage_costs(cost, cut, speeds)) == pytest.approx(min(slowest))


def test_among_equals_the_most_even_one() -> None:
    # The first layer decides the step; the other three can be cut in two ways.
    costs = [9.0, 4.0, 4.0, 1.0]
    assert best_cut(lambda i, j: sum(costs[i : j + 1]), 4, 3) == [1, 1, 2]


def test_a_faster_device_gets_more() -> None:
    assert best_cut(lambda i, j: j - i + 1.0, 9, 2, [2.0, 1.0]) == [6, 3]


def test_no_stage_that_gains_nothing() -> None:
    costs = [10.0, 1.0, 1.0]
    assert useful_stages(lambda i, j: sum(costs[i : j + 1]), 3, 3) == [1, 2]
    assert useful_stages(lambda i, j: j - i + 1.0, 4, 4) == [1, 1, 1, 1]
    assert useful_stages(lambda i, j: j - i + 1.0, 4, 2) == [2, 2]


@pytest.mark.parametrize(("stages", "speeds"), [(0, None), (4, None), (2, [1.0]), (2, [1.0, 0.0])])
def test_what_cannot_be(stages: int, speeds: list[float] | None) -> None:
    with pytest.raises(ValueError, match="cannot make|speeds must be"):
        best_cut(lambda i, j: 1.0, 3, stages, speeds)


def test_balance() -> None:
    assert balance([2.0, 2.0]) == 1.0
    assert balance([2.0, 1.0]) == 0.75


def test_a_stage_from_its_layers() -> None:
    """Bodies 1, 2, 3; 0.5 less for the first of a stage; heads 10, 20, 30 behind each layer."""
    body, head = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]

    def true(i: int, j: int) -> float:
        return sum(body[i : j + 1]) - 0.5 + head[j]

    times = LayerTimes(("a", "b", "c"), [true(i, i) for i in range(3)], [true(0, 1), true(1, 2)])
    for i, j in [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]:
        assert times.of(i, j) == pytest.approx(true(i, j))
