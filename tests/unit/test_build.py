from __future__ import annotations

import ast
from pathlib import Path

import torch
from safetensors.torch import load

import scpl_ray
from scpl_ray.engine.build import prepare_process, stage_state
from tests.unit.tools import build_stages, config, text_batch, train


def test_stage_state_holds_everything() -> None:
    stage = build_stages(config(stages=1))[0]
    train([stage], [text_batch(0), text_batch(1)])
    state = stage_state(stage)
    weights = load(state.weights)
    own = stage.module.named_state()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[k], own[k]) for k in own)
    assert load(state.optimizer).keys() == stage.optimizer_state().keys()
    assert state.sha256 == stage.module.weights_sha256()
    assert state.next_step == 2


def test_prepare_process_sets_threads() -> None:
    prepare_process(config(resources__device="cpu"), 2)
    assert torch.get_num_threads() == 2


def imported(path: Path) -> set[str]:
    """Modules that a file imports when it is loaded, type checking aside."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_training_code_needs_no_ray() -> None:
    root = Path(scpl_ray.__file__).parents[1]
    todo = {"scpl_ray.stage", "scpl_ray.engine.build", "scpl_ray.engine.transport"}
    todo |= {"scpl_ray.engine.placement", "scpl_ray.partition", "scpl_ray.schedule"}
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        seen.add(name)
        base = root.joinpath(*name.split("."))
        files = [f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()]
        for file in files:
            todo |= imported(file) - seen
    assert {"scpl_ray.objective", "scpl_ray.models.text", "torch"} <= seen
    assert [name for name in sorted(seen) if name.split(".")[0] == "ray"] == []
