"""A stage's state as it lies in memory: what a snapshot hands to the object store.

Serialising it first would copy it once more, in the stage's own time. The arrays are the stage's
tensors themselves; Ray copies them into the store before the stage's next call begins, so the
snapshot is of one moment. Bytes for a file are made where the file is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from scpl_ray.engine.base import StageState
from scpl_ray.engine.build import save_tensors
from scpl_ray.engine.transport import named_array, to_torch
from scpl_ray.stage import Stage

Arrays = dict[str, tuple[np.ndarray, str]]


@dataclass(frozen=True)
class LiveState:
    """What `StageState` holds, as arrays with torch's names of their types.

    Attributes:
        weights: weights and buffers by global name.
        optimizer: the optimizer's tensors.
        next_step: the step that the stage expects.
        stash: weights kept at the end of epochs.
    """

    weights: Arrays
    optimizer: Arrays
    next_step: int
    stash: dict[int, Arrays] = field(default_factory=dict)

    def serialised(self) -> StageState:
        """As safetensors, for a file."""
        return StageState(
            save_tensors(_tensors(self.weights)),
            save_tensors(_tensors(self.optimizer)),
            "",
            self.next_step,
            {epoch: save_tensors(_tensors(arrays)) for epoch, arrays in self.stash.items()},
        )


def live_state(stage: Stage) -> LiveState:
    """Describes a stage without a copy, where it computes on the CPU."""
    weights, optimizer = _arrays(stage.module.named_state()), _arrays(stage.optimizer_state())
    stash = {epoch: _arrays(tensors) for epoch, tensors in stage.kept.items()}
    return LiveState(weights, optimizer, stage.next_step, stash)


def load_live_state(stage: Stage, state: LiveState) -> None:
    """Gives a stage everything back that `live_state` took."""
    stage.load_state(_tensors(state.weights), _tensors(state.optimizer))
    stage.kept = {epoch: _tensors(arrays) for epoch, arrays in state.stash.items()}
    stage.begin(state.next_step)


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: named_array(t) for name, t in tensors.items()}


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: to_torch(array, dtype) for name, (array, dtype) in arrays.items()}
