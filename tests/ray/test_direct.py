"""Activations straight from process to process, on the CPU: the same numbers, and who may come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import scpl_ray
from scpl_ray.engine.direct import not_importable
from scpl_ray.errors import RunError
from scpl_ray.report import Reporter
from tests.helpers import small_config

pytestmark = [
    pytest.mark.usefixtures("ray_instance"),
    pytest.mark.skipif(bool(not_importable()), reason=f"no nixl: {not_importable()}"),
]


class Lines(Reporter):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def train(tree: dict[str, Any], name: str, **pipeline: Any) -> tuple[Any, list[str]]:
    said = Lines()
    tree = tree | {"name": name, "fault_tolerance": {"enabled": False}}
    tree["pipeline"] = tree.get("pipeline", {}) | pipeline
    summary = scpl_ray.train(tree, reporter=said).summary
    return (summary["weights_sha256"], summary["exits"]), said.lines


@pytest.mark.parametrize(("kind", "dtype"), [("transformer", "computed"), ("lstm", "bf16")])
def test_the_same_weights(kind: str, dtype: str, texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, model__kind=kind, pipeline__activation_dtype=dtype)
    local, _ = train(tree, "local", engine="local")
    one, said = train(tree, "one", transport="nixl", batches_per_call=1)
    many, _ = train(tree, "many", transport="nixl", batches_per_call=3)
    assert local == one == many
    assert "activations go directly from stage to stage (nixl)" in said


def test_stages_that_come_later_and_leave(texts: Path, tmp_path: Path) -> None:
    """One that starts later is given packets, and so is the process of those that have left."""
    tree = small_config(texts, tmp_path, model__layers=3, train__epochs=5)
    tree["elastic"] = {"start_stages": 3, "grow_at": {"step": [4]}, "shrink_at": {"step": [9]}}
    store, _ = train(tree, "store", transport="object_store")
    assert train(tree, "direct", transport="nixl")[0] == store


def test_a_dead_stage_ends_the_run(tmp_path: Path) -> None:
    tree = small_config(Path("unused"), tmp_path)
    tree["data"] = {"source": "digits", "limit": 300}
    options = {"step": 3, "how": "die"}
    tree["model"] = {"factory": "tests.ray.layers_for_tests:failing", "options": options}
    with pytest.raises(RunError, match="stage 2.*ended unexpectedly"):
        train(tree, "dies", transport="nixl")
