"""The layers of one stage as a plain module, for end-to-end backpropagation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.models.activation import Activation
from scpl_ray.models.registry import build_model
from scpl_ray.models.text import WordVectors
from scpl_ray.rng import derive_seed
from scpl_ray.stage_facts import StageSpec
from scpl_ray.stage_module import StageModule


class Segment(nn.Module):
    """The layers of one stage; the last segment ends in logits.

    Layers, first weights and dropout are those of the stage; so is the classifier.

    Args:
        spec: which layers.
        config: the run's config.
        info: what the data is.
        last: whether the classifier belongs to it.
        vectors: word vectors for the embedding.

    Attributes:
        step: index of the batch, for what is drawn at random.
        micro: index of the micro-batch, likewise.
    """

    def __init__(
        self,
        spec: StageSpec,
        config: Config,
        info: DataInfo,
        last: bool,
        vectors: WordVectors | None = None,
    ) -> None:
        super().__init__()
        config = config.model_copy(update={"method": "bp"})
        model = build_model(config, info, vectors)
        spec = StageSpec(spec.number, spec.layers, last)
        self.number, self.seed = spec.number, config.seed
        self.module = StageModule(spec, model, config, info.num_classes)
        self.head = self.module.objective.exit_head if last else None
        del self.module.objective
        self.bf16 = config.train.precision == "bf16"
        self.step = self.micro = 0

    def forward(
        self, hidden: Tensor, *states: Tensor, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """[B, ...] and states -> the next segment's input, or logits [B, C]."""
        seed = None
        if self.training:
            seed = derive_seed(self.seed, "micro", self.micro) if self.micro else self.seed
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.bf16):
            activation = Activation(hidden, mask, states)
            activation = self.module.run_layers(activation, seed, self.step)
            if self.head is not None:
                logits: Tensor = self.head(self.module.reduce(activation))
                return logits.float()
        return (activation.hidden, *activation.states) if activation.states else activation.hidden

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers: `LAYER.NAME`, and `head.NAME`."""
        parts = dict(zip(self.module.names, self.module.stack, strict=True))
        if self.head is not None:
            parts["head"] = self.head
        return {
            f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()
        }
