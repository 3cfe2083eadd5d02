from __future__ import annotations

import pytest

from scpl_ray.errors import ConfigError
from scpl_ray.partition import partition

NAMES = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("stages", "cut"),
    [
        (None, [("a",), ("b",), ("c",), ("d",), ("e",)]),
        (1, [("a", "b", "c", "d", "e")]),
        (2, [("a", "b", "c"), ("d", "e")]),
        (3, [("a", "b"), ("c", "d"), ("e",)]),
        (4, [("a", "b"), ("c",), ("d",), ("e",)]),
        (5, [("a",), ("b",), ("c",), ("d",), ("e",)]),
        ([1, 3, 1], [("a",), ("b", "c", "d"), ("e",)]),
        ([5], [("a", "b", "c", "d", "e")]),
    ],
)
def test_cuts(stages: int | list[int] | None, cut: list[tuple[str, ...]]) -> None:
    assert partition(NAMES, stages) == cut


@pytest.mark.parametrize("layers", range(1, 9))
def test_even_cuts_lose_nothing(layers: int) -> None:
    names = tuple(f"l{i}" for i in range(layers))
    for stages in range(1, layers + 1):
        cut = partition(names, stages)
        assert len(cut) == stages
        assert tuple(n for part in cut for n in part) == names
        sizes = [len(part) for part in cut]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1


def test_more_stages_than_layers() -> None:
    with pytest.raises(ConfigError, match=r"stages: 6 is more than the 5 layers.*allowed: 1 to 5"):
        partition(NAMES, 6)


@pytest.mark.parametrize("sizes", [[1, 3], [2, 2, 2], [5, 1]])
def test_list_that_does_not_add_up(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match=rf"adds up to {sum(sizes)} layers.*has 5 \(a, b, c"):
        partition(NAMES, sizes)
