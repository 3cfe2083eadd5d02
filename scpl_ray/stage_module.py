"""The layers and heads of one stage as a module whose state is keyed by global names."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.models.activation import Activation
from scpl_ray.models.layers import LayeredModel, apply_layer
from scpl_ray.objective import LocalObjective
from scpl_ray.rng import derive_seed
from scpl_ray.stage_facts import StageSpec


class StageModule(nn.Module):
    """The layers and heads of a stage; keys of its state are global layer names."""

    def __init__(self, spec: StageSpec, model: LayeredModel, config: Config, classes: int) -> None:
        super().__init__()
        own = [layer for layer in model.layers if layer.name in spec.layers]
        self.spec = spec
        self.names = [layer.name for layer in own]
        self.stack = nn.ModuleList([layer.make(config.seed) for layer in own])
        self.reduce = own[-1].reduce
        features = own[-1].features
        assert features is not None, "the model registry fills in the number of features"
        self.objective = LocalObjective(
            config, features, classes, model.style, spec.with_exit, self.names[-1]
        )

    def run_layers(self, activation: Activation, seed: int | None, step: int) -> Activation:
        """Runs the layers; with a seed, each draws its dropout from (seed, layer, step)."""
        for name, layer in zip(self.names, self.stack, strict=True):
            if seed is not None:
                torch.manual_seed(derive_seed(seed, "forward", name, step))
            activation = apply_layer(layer, activation)
        return activation

    def named_state(self) -> dict[str, Tensor]:
        """Weights and buffers by global name: `layers.encoder.1.norm.weight`, `heads.encoder.1...`.

        The heads carry the name of the layer after which they sit, so a checkpoint loads into
        any other cut of the same layers.
        """
        state: dict[str, Tensor] = {}
        for name, layer in zip(self.names, self.stack, strict=True):
            state |= {f"layers.{name}.{k}": v for k, v in layer.state_dict().items()}
        heads = self.objective.state_dict()
        return state | {f"heads.{self.names[-1]}.{k}": v for k, v in heads.items()}

    def named_trainable(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by the same names."""
        params: dict[str, nn.Parameter] = {}
        for name, layer in zip(self.names, self.stack, strict=True):
            params |= {f"layers.{name}.{k}": v for k, v in layer.named_parameters()}
        params |= {f"heads.{self.names[-1]}.{k}": v for k, v in self.objective.named_parameters()}
        return {k: v for k, v in params.items() if v.requires_grad}

    @torch.no_grad()
    def load_named(self, state: dict[str, Tensor]) -> None:
        """Copies weights in, by name.

        Raises:
            KeyError: a name is missing.
            ValueError: a shape differs.
        """
        for name, own in self.named_state().items():
            if state[name].shape != own.shape:
                raise ValueError(
                    f"{name}: shape {list(state[name].shape)} in the checkpoint, "
                    f"{list(own.shape)} in the model"
                )
            own.copy_(state[name])

    def weights_sha256(self) -> str:
        """Digest of names, types, shapes and bytes of all weights and buffers."""
        return weights_digest(self.named_state())


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Digest of names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        host = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {host.dtype} {list(host.shape)}\n".encode())
        digest.update(host.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
