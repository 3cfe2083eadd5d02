"""What travels between the front and the stages, and what comes back. No Ray."""

from __future__ import annotations

from dataclasses import dataclass

from scpl_ray.early_exit import Rule
from scpl_ray.models.activation import Activation


class Unavailable(Exception):
    """No replica of a stage answered in time."""


@dataclass(frozen=True)
class Group:
    """Samples of one request that travel together.

    Attributes:
        activation: what the next stage is given.
        rule: when an exit is sure.
        until: seconds since 1970; nobody waits for an answer after that.
    """

    activation: Activation
    rule: Rule
    until: float


@dataclass(frozen=True)
class ExitAnswer:
    """What one exit said of one sample.

    Attributes:
        stage: its number.
        probabilities: of the classes, in order.
        certainty: the measure that the threshold is held against.
        answers: whether the sample stopped here.
    """

    stage: int
    probabilities: list[float]
    certainty: float
    answers: bool


Trail = list[ExitAnswer]
"""The exits that a sample passed; the last one answered."""
