"""The best cut of consecutive layers into stages, by what they cost. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Cost = Callable[[int, int], float]


def best_cut(
    cost: Cost, layers: int, stages: int, speeds: Sequence[float] | None = None
) -> list[int]:
    """Cuts layers so that the slowest stage is as fast as it can be.

    Exact, by dynamic programming over (stage, layers so far): the linear partition problem.

    Args:
        cost: seconds of a stage that holds the layers i to j, both included, from 0.
        layers: number of layers.
        stages: number of stages; at most `layers`.
        speeds: of each stage's device, relative; None: equal.

    Returns:
        Layers of each stage. Among cuts with the same slowest stage the one whose stages differ
        least.

    Raises:
        ValueError: more stages than layers, or not one speed for each stage.
    """
    if not 1 <= stages <= layers:
        raise ValueError(f"{layers} layers cannot make {stages} stages")
    rates = [1.0] * stages if speeds is None else list(speeds)
    if len(rates) != stages or min(rates) <= 0:
        raise ValueError(f"speeds must be {stages} numbers above 0 (got {rates})")
    # best[n]: (slowest stage, sum of squares, sizes) of the first n layers in k stages.
    best: dict[int, tuple[float, float, list[int]]] = {0: (0.0, 0.0, [])}
    for k, rate in enumerate(rates, 1):
        longer: dict[int, tuple[float, float, list[int]]] = {}
        for end in range(k, layers - (stages - k) + 1):
            longer[end] = min(
                _joined(best[begin], cost(begin, end - 1) / rate, end - begin)
                for begin in best
                if begin < end
            )
        best = longer
    return best[layers][2]


def _joined(
    before: tuple[float, float, list[int]], seconds: float, size: int
) -> tuple[float, float, list[int]]:
    slowest, squares, sizes = before
    return max(slowest, seconds), squares + seconds**2, [*sizes, size]


def stage_costs(
    cost: Cost, cut: Sequence[int], speeds: Sequence[float] | None = None
) -> list[float]:
    """What each stage of a cut costs on its device."""
    costs, begin = [], 0
    for k, size in enumerate(cut):
        costs.append(cost(begin, begin + size - 1) / (1.0 if speeds is None else speeds[k]))
        begin += size
    return costs


def spread_devices(costs: Sequence[float], devices: int) -> list[int]:
    """Devices of each stage, one more at a time for the slowest, until there are none left.

    A stage on n devices takes 1/n of its time. Each step is the best one (the slowest stage can
    only be helped by itself), and so is the whole.

    Args:
        costs: seconds of each stage.
        devices: in all; at least one a stage is given.
    """
    each = [1] * len(costs)
    for _ in range(devices - len(costs)):
        slowest = max(range(len(costs)), key=lambda k: costs[k] / each[k])
        each[slowest] += 1
    return each


def balance(costs: Sequence[float]) -> float:
    """Mean / slowest: 1.0 where all stages cost the same."""
    return sum(costs) / len(costs) / max(costs) if costs and max(costs) > 0 else 1.0


def useful_stages(
    cost: Cost,
    layers: int,
    most: int,
    speeds: Sequence[float] | None = None,
    tolerance: float = 0.02,
) -> list[int]:
    """The best cut into the fewest stages that are as fast as the best cut into any number.

    Args:
        cost: as in `best_cut`.
        layers: number of layers.
        most: stages at most.
        speeds: of the devices.
        tolerance: a gain below this share of the step is none.
    """
    most = min(most, layers)
    given = [None if speeds is None else list(speeds)[:n] for n in range(most + 1)]
    cuts = [best_cut(cost, layers, n, given[n]) for n in range(1, most + 1)]
    steps = [max(stage_costs(cost, cut, given[len(cut)])) for cut in cuts]
    least = min(steps)
    return next(
        cut for cut, step in zip(cuts, steps, strict=True) if step <= least * (1 + tolerance)
    )
