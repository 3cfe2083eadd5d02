"""A network as exporters want it: tensors in, tensors out, only what inference needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from scpl_ray.checkpoint import Checkpoint
from scpl_ray.exporting.lstm import ScannedBiLSTM
from scpl_ray.models.text import BiLSTM
from scpl_ray.network import Network


class TextExits(nn.Module):
    """Token ids and mask -> logits of every exit.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Answers.

        Args:
            tokens: ids [B, T] int64.
            mask: [B, T] bool, True at real tokens.

        Returns:
            Logits [B, num_classes] by `exit_NUMBER`.
        """
        return named_exits(self.network, {"tokens": tokens, "mask": mask})


class ImageExits(nn.Module):
    """Images -> logits of every exit.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Answers.

        Args:
            images: normalised pixels [B, C, H, W] float32.

        Returns:
            Logits [B, num_classes] by `exit_NUMBER`.
        """
        return named_exits(self.network, {"images": images})


class _ExitHead(nn.Module):
    """What is left of a local objective when nothing is trained."""

    def __init__(self, exit_head: nn.Module | None) -> None:
        super().__init__()
        self.exit_head = exit_head


def named_exits(network: Network, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits [B, num_classes] of every exit, by `exit_NUMBER`."""
    return {
        f"exit_{stage}": logits
        for stage, logits in zip(network.exits, network(inputs), strict=True)
    }


def plain_network(checkpoint: Checkpoint) -> tuple[Network, list[str]]:
    """The network in float32 from end to end, uncompiled.

    Returns:
        The network in evaluation mode, and what differs from the run, a sentence each.
    """
    config, said = checkpoint.config, []
    if config.train.precision != "fp32":
        said.append("the run computed in bf16; what is exported computes in float32")
    if config.pipeline.activation_dtype != "computed":
        said.append("the run rounded what stages hand on; what is exported does not")
    updates = {
        "train": config.train.model_copy(update={"precision": "fp32"}),
        "pipeline": config.pipeline.model_copy(update={"activation_dtype": "computed"}),
        "resources": config.resources.model_copy(update={"compile": False, "channels_last": False}),
    }
    plain = replace(checkpoint, config=config.model_copy(update=updates))
    return Network(plain).eval().requires_grad_(False), said


def exits_module(network: Network) -> nn.Module:
    """Wraps a copy of a network for exporters: no training heads, no packed sequences."""
    own = copy.deepcopy(network)
    for stage in own.numbered():
        stage.objective = _ExitHead(stage.objective.exit_head)  # type: ignore[assignment]
        for i, layer in enumerate(stage.stack):
            if isinstance(layer, BiLSTM):
                stage.stack[i] = ScannedBiLSTM(layer)
    wrapped = TextExits(own) if own.info.kind == "text" else ImageExits(own)
    return wrapped.eval()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keeps torch from its fused kernel for whole encoder layers, which no other program has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
