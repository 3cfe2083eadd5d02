"""The layers and heads of one stage as a module whose state is keyed by global names."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.models.activation import Activation
from scpl_ray.models.channels_last import check_trainable
from scpl_ray.models.layers import LayeredModel, apply_layer
from scpl_ray.objective import LocalLoss, LocalObjective
from scpl_ray.rng import derive_seed, seed_device
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
        last = self.names[-1] == model.names[-1]
        self.objective = LocalObjective(
            config,
            features,
            classes,
            model.style,
            spec.with_exit,
            self.names[-1],
            last,
            own[-1].channels,
        )
        self.rounds = config.pipeline.activation_dtype == "bf16"
        self.channels_last = config.resources.channels_last and model.style == "image"
        if self.channels_last:
            self.stack.to(memory_format=torch.channels_last)
        if config.resources.compile:
            self._compile()

    def _compile(self) -> None:
        """Compiles each layer for exactly the shapes that it meets.

        A kernel for any shape would depend on which shapes came first, and a stage that comes back
        would not compute the same to the bit; one without limit and one that gives up and computes
        uncompiled neither.
        """
        torch._dynamo.config.recompile_limit = 1024
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        for layer in self.stack:
            layer.compile(dynamic=False)

    def check_trainable(self, device: torch.device) -> None:
        """Refuses what PyTorch cannot train on this device.

        Raises:
            ConfigError: see `channels_last.check_trainable`.
        """
        if self.channels_last and device.type == "cpu":
            check_trainable(zip(self.names, self.stack, strict=True))

    def run_layers(self, activation: Activation, seed: int | None, step: int) -> Activation:
        """Runs the layers; with a seed, each draws its dropout from (seed, layer, step)."""
        if self.rounds:
            activation = activation.floats_to(torch.float32)
        if self.channels_last and activation.hidden.dim() == 4:
            hidden = activation.hidden.contiguous(memory_format=torch.channels_last)
            activation = activation.with_hidden(hidden, activation.states)
        for name, layer in zip(self.names, self.stack, strict=True):
            if seed is not None:
                seed_device(activation.hidden.device, derive_seed(seed, "forward", name, step))
            activation = apply_layer(layer, activation)
        return activation

    def local_loss(self, output: Activation, labels: Tensor) -> LocalLoss:
        """The stage's loss of its output, gradient attached, and labels [B]."""
        loss: LocalLoss = self.objective(self.reduce(output), labels, output.hidden)
        return loss

    def handed_on(self, output: Activation) -> Activation:
        """What crosses the border to the next stage; rounded, if the config says so."""
        return output.floats_to(torch.bfloat16) if self.rounds else output

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
