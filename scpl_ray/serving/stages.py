"""One stage as a deployment of Ray Serve: batches of many requests; only the unsure go on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray import serve
from torch import Tensor

from scpl_ray.checkpoint import read_checkpoint
from scpl_ray.early_exit import Rule, score
from scpl_ray.errors import CheckpointError
from scpl_ray.models.activation import Activation
from scpl_ray.network import Network, uncompiled
from scpl_ray.run_folder import fingerprint
from scpl_ray.serving.ask import ask
from scpl_ray.serving.rows import alike, joined, trimmed
from scpl_ray.serving.trail import ExitAnswer, Group, Trail

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

Output = tuple[Activation, Tensor | None]
"""What a stage hands on, and its exit's logits [B, C]."""


def load_stage(checkpoint: Path, number: int, expected: str) -> Network:
    """Loads one stage of a checkpoint, as a network of that stage alone.

    Args:
        checkpoint: the folder.
        number: of the stage.
        expected: the checkpoint's `fingerprint` when serving began.

    Raises:
        CheckpointError: another run has taken its place; a mixture of both would answer nonsense.
    """
    read = read_checkpoint(checkpoint, {number})
    if fingerprint(checkpoint) != expected:
        raise CheckpointError(f"{checkpoint} was replaced since serving began; serve it anew")
    spec = next(s for s in read.specs if s.number == number)
    return Network(uncompiled(replace(read, specs=[spec]))).eval()


def _samples(groups: list[Group]) -> int:
    return sum(len(group.activation.hidden) for group in groups)


class StageServer:
    """A replica of a stage.

    Args:
        checkpoint: the run's checkpoint folder.
        number: of the stage.
        expected: the checkpoint's `fingerprint`.
        last: whether its exit answers whatever is left.
        behind: the stage after it.
        max_batch: samples computed at once.
        wait_s: how long to wait for more samples.
    """

    def __init__(
        self,
        checkpoint: Path,
        number: int,
        expected: str,
        last: bool,
        behind: DeploymentHandle | None,
        max_batch: int,
        wait_s: float,
    ) -> None:
        self.network = load_stage(checkpoint, number, expected)
        torch.set_num_threads(self.network.threads)
        self.number, self.last, self.behind = number, last, behind
        outputs: Any = self.outputs
        outputs.set_max_batch_size(max_batch)
        outputs.set_batch_wait_timeout_s(wait_s)

    async def __call__(self, group: Group) -> list[Trail]:
        """Answers the samples that this exit is sure of, and asks the next stage for the others."""
        handed_on, logits = await self.outputs(group)
        size = len(handed_on.hidden)
        trails: list[Trail] = [[] for _ in range(size)]
        done = torch.zeros(size, dtype=torch.bool)
        if logits is not None:
            logits = group.rule.calibrated(self.number, logits)
            done = group.rule.sure(self.number, logits)
            if self.last:
                done = torch.ones_like(done)
            trails = [[answer] for answer in exit_answers(self.number, logits, done, group.rule)]
        left = (~done).nonzero().flatten()
        if len(left):
            assert self.behind is not None
            rest = replace(group, activation=trimmed(handed_on.rows(left)))
            further = await ask(self.behind, rest)
            for row, trail in zip(left.tolist(), further, strict=True):
                trails[row] += trail
        return trails

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002, batch_size_fn=_samples)
    async def outputs(self, groups: list[Group]) -> list[Output]:
        """Runs the stage on the samples of several requests at once."""
        return await asyncio.to_thread(self._run, groups)

    @torch.no_grad()
    def _run(self, groups: list[Group]) -> list[Output]:
        kinds: dict[object, list[int]] = {}
        for index, group in enumerate(groups):
            kinds.setdefault(alike(group.activation), []).append(index)
        outputs: dict[int, Output] = {}
        (stage,) = self.network.numbered()
        for indices in kinds.values():
            parts = [groups[i].activation for i in indices]
            handed_on, logits = self.network.run_stage(stage, joined(parts))
            start = 0
            for index, part in zip(indices, parts, strict=True):
                rows = torch.arange(start, start + len(part.hidden))
                outputs[index] = handed_on.rows(rows), None if logits is None else logits[rows]
                start += len(rows)
        return [outputs[index] for index in range(len(groups))]


def exit_answers(stage: int, logits: Tensor, done: Tensor, rule: Rule) -> list[ExitAnswer]:
    """What an exit says of each sample.

    Args:
        stage: the exit's number.
        logits: [B, C], calibrated.
        done: [B] bool: who stops here.
        rule: of the request.
    """
    certainty = score(logits, rule.measure)
    rows = zip(logits.softmax(1).tolist(), certainty.tolist(), done.tolist(), strict=True)
    return [ExitAnswer(stage, *row) for row in rows]
