"""Accuracy per exit of a finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scpl_ray.data.loader import BatchLoader
from scpl_ray.exits import ExitResult, fold
from scpl_ray.models.activation import Activation, from_batch
from scpl_ray.network import Network, load
from scpl_ray.stage_facts import ExitScore


@dataclass(frozen=True)
class Collected:
    """What every exit says of every sample of a split.

    Attributes:
        stages: numbers of the exits' stages.
        logits: [N, C] of each exit, in that order.
        labels: [N].
        sizes: samples of each batch, in order.
    """

    stages: tuple[int, ...]
    logits: tuple[Tensor, ...]
    labels: Tensor
    sizes: tuple[int, ...]

    def calibrated(self, temperatures: Mapping[int, float]) -> Collected:
        """The same with the logits divided by their exits' temperatures; 1 where there is none."""
        scaled = tuple(
            logits / temperatures.get(stage, 1.0)
            for stage, logits in zip(self.stages, self.logits, strict=True)
        )
        return Collected(self.stages, scaled, self.labels, self.sizes)

    def results(self) -> list[ExitResult]:
        """Accuracy and loss of each exit, added up batch by batch as while training."""
        scores, labels = [], self.labels.split(self.sizes)
        for stage, whole in zip(self.stages, self.logits, strict=True):
            for logits, right in zip(whole.split(self.sizes), labels, strict=True):
                loss = float(cross_entropy(logits, right, reduction="sum"))
                correct = int((logits.argmax(1) == right).sum())
                scores.append(ExitScore(stage, correct, len(right), loss))
        return fold(scores)


def evaluate_run(run_dir: str | Path, split: str = "test") -> tuple[Network, list[ExitResult]]:
    """Loads a run's checkpoint and scores every exit on a split of the data that it used.

    Args:
        run_dir: the run's folder or name.
        split: "train", "validation" or "test".
    """
    network = load(run_dir)
    return network, evaluate_network(network, split)


def evaluate_network(network: Network, split: str) -> list[ExitResult]:
    """Scores every exit of a network on a split."""
    return collect(network, prepare(network), split).results()


def prepare(network: Network) -> BatchLoader:
    """Gets the data that a network was trained on, cut and encoded as it was then."""
    config, info = network.config, network.info
    data = config.data
    if info.name != info.requested:
        data = data.model_copy(update={"source": info.name, "offline": "none"})
    return BatchLoader.prepare(
        data,
        config.seed,
        config.train.batch_size,
        config.evaluate.batch_size,
        config.train.drop_last,
        tokenizer=info.tokenizer or None,
    )


def batches(
    network: Network, loader: BatchLoader, split: str
) -> Iterator[tuple[Activation, Tensor]]:
    """A split's batches: what the first stage is given, and labels [B]."""
    limit = network.config.evaluate.train_samples if split == "train" else None
    for index in range(loader.num_eval_batches(split, limit)):
        yield from_batch(loader.eval_batch(split, index, limit))


@torch.no_grad()
def collect(network: Network, loader: BatchLoader, split: str) -> Collected:
    """Asks every exit about every sample of a split."""
    answers: list[list[Tensor]] = [[] for _ in network.exits]
    labels = []
    with own_threads(network):
        for activation, right in batches(network, loader, split):
            for own, logits in zip(answers, network(activation), strict=True):
                own.append(logits)
            labels.append(right)
    whole = tuple(torch.cat(own) for own in answers)
    sizes = tuple(len(right) for right in labels)
    return Collected(tuple(network.exits), whole, torch.cat(labels), sizes)


@contextmanager
def own_threads(network: Network) -> Iterator[None]:
    """Computes with as many threads as a stage had in training: equal numbers, to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(network.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
