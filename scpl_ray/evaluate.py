"""Accuracy per exit of a finished run."""

from __future__ import annotations

from pathlib import Path

import torch

from scpl_ray.data.loader import BatchLoader
from scpl_ray.exits import ExitResult, fold
from scpl_ray.models.activation import from_batch
from scpl_ray.network import Network, load
from scpl_ray.stage_facts import ExitScore


def evaluate_run(run_dir: str | Path, split: str = "test") -> tuple[Network, list[ExitResult]]:
    """Loads a run's checkpoint and scores every exit on a split of the data that it used.

    Args:
        run_dir: the run's folder or name.
        split: "train", "validation" or "test".
    """
    network = load(run_dir)
    return network, evaluate_network(network, split)


@torch.no_grad()
def evaluate_network(network: Network, split: str) -> list[ExitResult]:
    """Scores every exit of a network on a split."""
    config, info = network.config, network.info
    data = config.data
    if info.name != info.requested:
        data = data.model_copy(update={"source": info.name, "offline": "none"})
    loader = BatchLoader.prepare(
        data,
        config.seed,
        config.train.batch_size,
        config.evaluate.batch_size,
        config.train.drop_last,
        tokenizer=info.tokenizer or None,
    )
    limit = config.evaluate.train_samples if split == "train" else None
    scores = []
    before = torch.get_num_threads()
    torch.set_num_threads(network.threads)
    try:
        for index in range(loader.num_eval_batches(split, limit)):
            activation, labels = from_batch(loader.eval_batch(split, index, limit))
            for stage, logits in zip(network.exits, network(activation), strict=True):
                loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
                correct = int((logits.argmax(1) == labels).sum())
                scores.append(ExitScore(stage, correct, len(labels), float(loss)))
    finally:
        torch.set_num_threads(before)
    return fold(scores)
