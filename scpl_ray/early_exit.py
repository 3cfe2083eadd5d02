"""Leaving early: a sample stops at the first exit that is sure of it, the others travel on.

    confidence  sure where max softmax(logits / temperature) >= threshold
    entropy     sure where the entropy of that softmax, in nats, <= threshold

The last exit answers whatever is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from scpl_ray.network import Inputs, Network

Measure = Literal["confidence", "entropy"]


@dataclass(frozen=True)
class Rule:
    """When an exit is sure.

    Attributes:
        threshold: confidence from 0 to 1, or entropy in nats, 0 to log(classes).
        measure: which of the two.
        temperatures: by the number of the exit's stage; its logits are divided by it. 1 where
            there is none.
        exits: stages that may answer; None: all. The last exit always may.
    """

    threshold: float
    measure: Measure = "confidence"
    temperatures: Mapping[int, float] = field(default_factory=dict)
    exits: frozenset[int] | None = None

    def calibrated(self, stage: int, logits: Tensor) -> Tensor:
        """Divides logits [B, C] of a stage's exit by its temperature."""
        return logits / self.temperatures.get(stage, 1.0)

    def sure(self, stage: int, logits: Tensor) -> Tensor:
        """Which samples stop here, [B] bool.

        Args:
            stage: the exit's number.
            logits: [B, C], calibrated.
        """
        if not self.may_answer(stage):
            return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        return self.reached(score(logits, self.measure))

    def may_answer(self, stage: int) -> bool:
        """Whether an exit is asked at all; the last one always is."""
        return self.exits is None or stage in self.exits

    def reached(self, scores: Tensor) -> Tensor:
        """Which of the scores, of any shape, are on the sure side of the threshold."""
        if self.measure == "confidence":
            return scores >= self.threshold
        return scores <= self.threshold


@dataclass(frozen=True)
class Answers:
    """What a batch was answered.

    Attributes:
        logits: [B, C], of the exit that answered, divided by its temperature.
        stages: [B], the number of the stage whose exit answered.
        seen: by the number of the stage: which samples its exit saw [b], and what it said of them,
            logits [b, C] divided by its temperature.
    """

    logits: Tensor
    stages: Tensor
    seen: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits [B, C]) in nats, [B]."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).nan_to_num(0.0).sum(1)


def score(logits: Tensor, measure: Measure) -> Tensor:
    """How sure an exit is, [B], of its calibrated logits [B, C]; low entropy is sure."""
    return logits.softmax(1).amax(1) if measure == "confidence" else entropy(logits)


@torch.no_grad()
def leave_early(network: Network, inputs: Inputs, rule: Rule) -> Answers:
    """Answers a batch; stages see only the samples that no exit before was sure of.

    Args:
        network: a trained one, in evaluation mode.
        inputs: as `Network.forward` takes.
        rule: when an exit is sure.
    """
    activation = network.activation(inputs)
    size, device = len(activation.hidden), activation.hidden.device
    left = torch.arange(size, device=device)
    logits = torch.zeros(0, device=device)
    stages = torch.zeros(size, dtype=torch.long, device=device)
    last = network.exits[-1]
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    for stage in network.numbered():
        number = stage.spec.number
        asked = number == last or rule.may_answer(number)
        activation, own = network.run_stage(stage, activation, asked)
        if own is None:
            continue
        own = rule.calibrated(number, own)
        seen[number] = (left, own)
        if not len(logits):
            logits = own.new_zeros(size, own.shape[1])
        done = torch.ones_like(left, dtype=torch.bool) if number == last else rule.sure(number, own)
        logits[left[done]], stages[left[done]] = own[done], number
        left, activation = left[~done], activation.rows(~done)
        if not len(left):
            break
    return Answers(logits, stages, seen)


@torch.no_grad()
def shortcut(network: Network, inputs: Inputs, stage: int) -> Tensor:
    """The answer of one exit, logits [B, C]; no other exit and no stage behind it is run.

    Raises:
        ValueError: that stage has no exit.
    """
    if stage not in network.exits:
        raise ValueError(f"stage {stage} has no exit; there are exits at stages {network.exits}")
    activation = network.activation(inputs)
    for own in network.numbered():
        asked = own.spec.number == stage
        activation, logits = network.run_stage(own, activation, asked)
        if asked:
            assert logits is not None
            return logits
    raise AssertionError("an exit is at one of the stages")
