"""A trained network as a plain module: one list of logits per exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from scpl_ray.checkpoint import Checkpoint, read_checkpoint
from scpl_ray.errors import CheckpointError
from scpl_ray.exporting.folder import is_exported, read_folder
from scpl_ray.models.activation import Activation
from scpl_ray.models.registry import build_model
from scpl_ray.run_folder import CHECKPOINT, find_run
from scpl_ray.stage_module import StageModule

Inputs = Tensor | dict[str, Tensor] | Activation


class Network(nn.Module):
    """All stages of a run, one after another, without optimizers.

    Attributes:
        info: what it was trained on: classes, tokenizer, shapes.
        exits: numbers (from 1) of the stages that have an exit, in the order of the logits.
        pad_id: text: the token id of padding.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.config, self.info = checkpoint.config, checkpoint.info
        self.threads = checkpoint.threads
        model = build_model(self.config, self.info)
        own = [
            StageModule(spec, model, self.config, self.info.num_classes)
            for spec in checkpoint.specs
        ]
        self.stages = nn.ModuleList(own)
        for stage in own:
            try:
                stage.load_named(checkpoint.weights)
            except (KeyError, ValueError) as error:
                raise CheckpointError(
                    f"the checkpoint does not fit its config: {str(error).strip(chr(34))}"
                ) from error
        # 0 in our own vocabulary; a network from elsewhere may have another.
        self.pad_id: int = getattr(own[0].stack[0], "pad_id", 0)
        self.exits = [s.number for s in checkpoint.specs if s.with_exit]

    def forward(self, inputs: Inputs) -> list[Tensor]:
        """Answers at every exit.

        Args:
            inputs: text: token ids [B, T] with `pad_id` as padding, or `encode`'s dict of `tokens`
                and `mask`; images: normalised pixels [B, C, H, W]; or an `Activation`.

        Returns:
            Logits [B, num_classes] of each exit, in the order of `exits`.
        """
        activation = self.activation(inputs)
        answers = []
        for stage in self.numbered():
            activation, logits = self.run_stage(stage, activation)
            if logits is not None:
                answers.append(logits)
        return answers

    def numbered(self) -> Iterator[StageModule]:
        """The stages in order."""
        for stage in self.stages:
            assert isinstance(stage, StageModule)
            yield stage

    def run_stage(
        self, stage: StageModule, activation: Activation, answer: bool = True
    ) -> tuple[Activation, Tensor | None]:
        """Runs one stage: (what it hands on, logits [B, num_classes] if it has an exit).

        Args:
            stage: one of `numbered()`.
            activation: what the stage before handed on.
            answer: False: leave its exit head out.
        """
        precision: AbstractContextManager[object] = nullcontext()
        if self.config.train.precision == "bf16":
            precision = torch.autocast(activation.hidden.device.type, torch.bfloat16)
        with precision:
            output = stage.run_layers(activation, None, 0)
            head = stage.objective.exit_head if answer else None
            logits = None if head is None else head(stage.reduce(output)).float()
        return stage.handed_on(output), logits

    def activation(self, inputs: Inputs) -> Activation:
        """What the first stage is given, from any form of inputs that `forward` takes."""
        if isinstance(inputs, Activation):
            return inputs
        if isinstance(inputs, dict):
            hidden = inputs["tokens"] if "tokens" in inputs else inputs["images"]
            return Activation(hidden, inputs.get("mask"))
        return Activation(inputs, inputs != self.pad_id if self.info.kind == "text" else None)

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Texts -> `tokens` and `mask`, [B, T], padded to the longest.

        Raises:
            ValueError: the network was trained on images.
        """
        if self.info.kind != "text":
            raise ValueError("encode is for text; this network was trained on images")
        from scpl_ray.data.text import encode, pad

        padded = pad(encode(self.info.tokenizer, texts))
        return {name: torch.from_numpy(array) for name, array in padded.items()}


def load(run_dir: str | Path, compiled: bool = True) -> Network:
    """Loads the network of a finished run, in evaluation mode.

    Args:
        run_dir: the run's folder, or its name under `runs/`; or a folder that
            `scpl-ray export --to huggingface` wrote.
        compiled: compile the layers where the run did. Each length of texts is then compiled by
            itself, which is worth it only where few lengths come often.

    Raises:
        CheckpointError: there is no such run, or its checkpoint is damaged.
    """
    checkpoint = read_network(run_dir)
    if not compiled:
        checkpoint = uncompiled(checkpoint)
    return Network(checkpoint).eval()


def read_network(run_dir: str | Path) -> Checkpoint:
    """Reads what `load` loads.

    Raises:
        CheckpointError: there is no such run, or its checkpoint is damaged.
    """
    if is_exported(Path(run_dir)):
        return read_folder(Path(run_dir))
    return read_checkpoint(find_run(run_dir) / CHECKPOINT)


def uncompiled(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, of a network whose layers run as they are written."""
    config = checkpoint.config
    resources = config.resources.model_copy(update={"compile": False})
    return replace(checkpoint, config=config.model_copy(update={"resources": resources}))
