"""What the config says about growth, in steps; and whether growth is needed. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scpl_ray.config.running import ElasticConfig, GrowWhenConfig, MomentsConfig

_KNOWN_PACE = 5
_SOON_STEPS = 20


@dataclass(frozen=True)
class Planned:
    """One change of the number of stages.

    Attributes:
        step: it comes before this step is sent.
        kind: whether a stage joins or leaves.
    """

    step: int
    kind: Literal["grow", "shrink"]


def planned_changes(elastic: ElasticConfig, steps_per_epoch: int) -> list[Planned]:
    """Orders the changes of `grow_at` and `shrink_at`; of equal steps, joining comes first."""
    grow = [Planned(step, "grow") for step in _steps(elastic.grow_at, steps_per_epoch)]
    shrink = [Planned(step, "shrink") for step in _steps(elastic.shrink_at, steps_per_epoch)]
    return sorted([*grow, *shrink], key=lambda change: (change.step, change.kind))


def _steps(moments: MomentsConfig, steps_per_epoch: int) -> list[int]:
    return [epoch * steps_per_epoch for epoch in moments.epoch] + list(moments.step)


def most_stages(start: int, changes: Sequence[Planned]) -> int:
    """The largest number of stages that train at the same time."""
    now = most = start
    for change in changes:
        now += 1 if change.kind == "grow" else -1
        most = max(most, now)
    return most


def first_impossible(start: int, changes: Sequence[Planned]) -> Planned | None:
    """The first planned change that would leave no stage."""
    now = start
    for change in changes:
        now += 1 if change.kind == "grow" else -1
        if now < 1:
            return change
    return None


@dataclass
class Pace:
    """How long a step takes, and so when a planned stage must start.

    Attributes:
        step_s: seconds of a step, the latest counting most.
        steps: of how many steps.
    """

    step_s: float = 0.0
    steps: int = 0
    _last: float | None = None

    def mark(self) -> None:
        """A step begins now."""
        now = time.monotonic()
        if self._last is not None:
            took = now - self._last
            self.step_s = took if self.steps == 0 else 0.8 * self.step_s + 0.2 * took
            self.steps += 1
        self._last = now

    def is_time(self, steps_left: int, lead_s: float) -> bool:
        """Whether a stage that is due in `steps_left` steps must start now.

        Args:
            steps_left: steps until it is due.
            lead_s: how long before it is due it shall start.
        """
        if steps_left <= _SOON_STEPS:
            return True
        return self.steps >= _KNOWN_PACE and steps_left * self.step_s <= lead_s


@dataclass(frozen=True)
class Decision:
    """Whether to add a stage, and why."""

    grow: bool
    reason: str


def decide(
    when: GrowWhenConfig, accuracies: Sequence[float], num_stages: int, no_room: str
) -> Decision:
    """Decides after an epoch whether a stage is needed and can be had.

    Args:
        when: the policy.
        accuracies: validation accuracy of the last exit after each epoch since the number of
            stages changed, the newest last.
        num_stages: stages that train.
        no_room: why no stage could get a device; empty if one could.
    """
    plateau = when.exit_accuracy_plateau
    if num_stages >= when.max_stages:
        return Decision(False, f"{num_stages} stages are max_stages")
    if len(accuracies) <= plateau.epochs:
        return Decision(
            False, f"{len(accuracies)} epochs with these stages, more than {plateau.epochs} needed"
        )
    recent = max(accuracies[-plateau.epochs :])
    before = max(accuracies[: -plateau.epochs])
    gain = recent - before
    words = f"the last exit gained {gain:+.4f} in {plateau.epochs} epochs (min_delta "
    words += f"{plateau.min_delta:g})"
    if gain >= plateau.min_delta:
        return Decision(False, words)
    if when.if_resources and no_room:
        return Decision(False, f"{words}, but there is no room: {no_room}")
    return Decision(True, words)
