"""One process of end-to-end backpropagation: its segments, how they learn and how they are scored.

Optimizer, learning rate of each step, clipping (by the norm of all processes' gradients), batches,
threads and allocator settings are those of the stages.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scpl_ray.bench.kinds import PIPELINED
from scpl_ray.bench.ranks import Rank
from scpl_ray.bench.segment import Segment
from scpl_ray.config import Config
from scpl_ray.data.splits import TextSplit
from scpl_ray.engine.build import prepare_stage_process
from scpl_ray.engine.data import fetch, load_data
from scpl_ray.engine.placement import num_cores, threads_per_stage
from scpl_ray.errors import NonFiniteLossError
from scpl_ray.exits import ExitResult, fold
from scpl_ray.job_checks import make_vectors
from scpl_ray.models.activation import Activation, from_batch
from scpl_ray.optim import CLEAR_EVERY, clear_tiny, learning_rate, make_optimizer
from scpl_ray.peak_memory import own_mib
from scpl_ray.schedule import Evaluate, Train, evaluation
from scpl_ray.stage_facts import ExitScore, StageSpec

Given = tuple[Activation, Tensor]


def threads_of(kind: str, config: Config, stages: int) -> int:
    """CPU threads of each process."""
    if kind in PIPELINED:
        return threads_per_stage(config, stages)
    return 1 if kind == "bp-one-core" else num_cores()


class Learner:
    """What one process holds.

    Args:
        rank: which process it is.
        kind: one of `kinds.KINDS`.
        config: the job.
        specs: all stages; with several processes, each holds its own.

    Attributes:
        before_mib: memory of its own before the network was built.
        computed_s: seconds of forward, backward and optimizer.
    """

    def __init__(self, rank: Rank, kind: str, config: Config, specs: list[StageSpec]) -> None:
        prepare_stage_process(config, threads_of(kind, config, len(specs)))
        self.rank, self.kind, self.config, self.stages = rank, kind, config, len(specs)
        self.loader, self.ready = load_data(config)
        info = self.ready.info
        self.total = config.train.epochs * self.ready.steps_per_epoch
        self.needs = rank.first or rank.last or info.kind == "text"
        vectors = make_vectors(config, info) if rank.first else None
        self.before_mib = own_mib()
        own = [specs[rank.number]] if rank.world > 1 else specs
        self.segments = [Segment(s, config, info, s is specs[-1], vectors) for s in own]
        self.optimizers = [
            (s.number, make_optimizer(config.optimizer, s.number, [list(s.parameters())]))
            for s in self.segments
            if any(True for _ in s.parameters())
        ]
        self.params = [p for s in self.segments for p in s.parameters()]
        self.computed_s = 0.0
        self._pipelines: dict[int, Any] = {}

    def batch(self, work: Train | Evaluate) -> Given | None:
        """The batch of one piece of work; None: this process needs nothing of it."""
        return from_batch(fetch(self.loader, work)) if self.needs else None

    def learn(self, step: int, given: Given | None, micro: int) -> None:
        """One training step.

        Args:
            step: index of the batch.
            given: the batch.
            micro: micro-batches of it.

        Raises:
            NonFiniteLossError: the loss is not finite.
        """
        loss = self.differentiate(step, given, micro)
        if loss is not None and not np.isfinite(loss):
            raise NonFiniteLossError(self.stages, step, loss)
        self._descend(step)

    def differentiate(self, step: int, given: Given | None, micro: int) -> float | None:
        """Gives all parameters the gradient of a batch; its loss, where the classifier is."""
        for segment in self.segments:
            segment.train()
            segment.step, segment.micro = step, 0
        for param in self.params:
            param.grad = None
        if self.rank.world == 1:
            assert given is not None
            begun = time.perf_counter()
            loss = F.cross_entropy(self._logits(given[0]), given[1])
            loss.backward()
            self.computed_s += time.perf_counter() - begun
            return float(loss.detach())
        pipeline = self._pipeline(micro)
        before = pipeline.computed_s
        found: float | None = pipeline(self._rows(step), given)
        self.computed_s += pipeline.computed_s - before
        return found

    def _rows(self, step: int) -> int:
        """Of a training batch; the last of an epoch may be smaller."""
        size, samples = self.config.train.batch_size, self.ready.info.sizes["train"]
        position = step % self.ready.steps_per_epoch
        return min(size, samples - position * size) * self.ready.info.views

    def _pipeline(self, micro: int) -> Any:
        if micro not in self._pipelines:
            from scpl_ray.bench.schedules import Pipelined

            longest = None
            train = self.loader.splits["train"]
            if isinstance(train, TextSplit):
                longest = int(np.diff(train.offsets).max())
            (segment,) = self.segments
            self._pipelines[micro] = Pipelined(segment, self.rank, self.kind, micro, longest)
        return self._pipelines[micro]

    def forget_pipelines(self) -> None:
        """Gives back what was kept for each number of micro-batches."""
        self._pipelines = {}

    def _logits(self, activation: Activation) -> Tensor:
        handed: Any = (activation.hidden,)
        for segment in self.segments:
            handed = segment(*handed, mask=activation.mask)
            handed = handed if isinstance(handed, tuple) else (handed,)
        logits: Tensor = handed[0]
        return logits

    def _descend(self, step: int) -> None:
        if self.config.train.clip_norm is not None:
            self._clip(self.config.train.clip_norm)
        begun = time.perf_counter()
        for number, optimizer in self.optimizers:
            lr = learning_rate(
                self.config.optimizer, number, step, self.total, self.ready.steps_per_epoch
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            if step % CLEAR_EVERY == 0:
                clear_tiny(optimizer)
        self.computed_s += time.perf_counter() - begun

    def _clip(self, most: float) -> None:
        grads = [p.grad for p in self.params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self.rank.world > 1:
            squared = norm.double() ** 2
            torch.distributed.all_reduce(squared)
            norm = squared.sqrt().to(norm.dtype)
        torch.nn.utils.clip_grads_with_norm_(self.params, most, norm)

    @torch.no_grad()
    def score(self, split: str, epoch: int) -> ExitResult | None:
        """The exit on a split, where the classifier is; batches stream through the processes."""
        for segment in self.segments:
            segment.eval()
        limit = self.config.evaluate.train_samples if split == "train" else None
        scores = []
        for work in evaluation(split, epoch, self.loader.num_eval_batches(split, limit), limit):
            assert isinstance(work, Evaluate)
            given = self.batch(work)
            handed = self._received(given)
            mask = None if given is None else given[0].mask
            for segment in self.segments:
                handed = segment(*handed, mask=mask)
                handed = handed if isinstance(handed, tuple) else (handed,)
            if not self.rank.last:
                torch.distributed.send_object_list([handed], dst=self.rank.number + 1)
                continue
            assert given is not None
            logits, labels = handed[0], given[1]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            correct = int((logits.argmax(1) == labels).sum())
            scores.append(ExitScore(self.stages, correct, len(labels), float(loss)))
        return fold(scores)[0] if scores else None

    def _received(self, given: Given | None) -> tuple[Tensor, ...]:
        if self.rank.first:
            assert given is not None
            return (given[0].hidden,)
        handed: list[Any] = [None]
        torch.distributed.recv_object_list(handed, src=self.rank.number - 1)
        received: tuple[Tensor, ...] = handed[0]
        return received

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers of its segments, by name."""
        return {name: v for segment in self.segments for name, v in segment.weights().items()}

    def copied(self) -> list[dict[str, Tensor]]:
        """A copy of the weights."""
        return [{k: v.clone() for k, v in s.state_dict().items()} for s in self.segments]

    def put_back(self, states: list[dict[str, Tensor]]) -> None:
        """Goes back to a copy of the weights."""
        for segment, state in zip(self.segments, states, strict=True):
            segment.load_state_dict(state)
