"""The modules of a network of the package `transformers`, one by one, with their weights."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from scpl_ray import huggingface as hf
from scpl_ray.errors import ConfigError

_LISTS = ("encoder.layer", "encoder.layers", "transformer.layer", "layers", "layer")
_NORMS = ("layernorm", "LayerNorm", "norm")
# Behind the last layer; the exit heads are in its place.
_UNUSED = ("pooler.",)


class Source:
    """Where the layers of one network come from.

    Args:
        hf_config: of the package.
        path: of the pretrained weights; None: new ones.
    """

    def __init__(self, hf_config: Any, path: str | None) -> None:
        self.hf_config, self.path = hf_config, path
        # Without memory for its weights: each process makes those of its own layers.
        with torch.device("meta"):
            self.plan: nn.Module = hf.package().AutoModel.from_config(hf_config)
        self.list = next((name for name in _LISTS if self._has(name)), "")
        self.norm = next((name for name in _NORMS if self._has(name)), "")
        self._check()

    def _has(self, name: str) -> bool:
        try:
            return not isinstance(self.plan.get_submodule(name), nn.Identity)
        except AttributeError:
            return False

    def _check(self) -> None:
        """All that holds weights must be known, or a layer would be left out silently."""
        norm = (f"{self.norm}.",) if self.norm else ()
        known = ("embeddings.", f"{self.list}.", *norm, *_UNUSED)
        left = [n for n, _ in self.plan.named_parameters() if not n.startswith(known)]
        if left or not self.list:
            raise ConfigError(
                f"model.path: this {self.hf_config.model_type} has parts that its layers do not "
                f"show: {', '.join(left[:4]) or 'no list of layers'}; choose options without them, "
                "or cut it by a model.factory of your own"
            )

    @property
    def num_layers(self) -> int:
        """Layers of the encoder."""
        layers = self.plan.get_submodule(self.list)
        assert isinstance(layers, nn.ModuleList)
        return len(layers)

    @functools.cached_property
    def _pretrained(self) -> nn.Module:
        """The whole network with its weights; lives as long as the description of the layers."""
        assert self.path is not None
        package = hf.package()
        bars = package.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            found, report = package.AutoModel.from_pretrained(
                self.path,
                config=copy.deepcopy(self.hf_config),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **hf.where(self.path),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(hf.cannot_be_had(self.path, "weights", error)) from error
        finally:
            if shown:
                bars.enable_progress_bar()
        missing = sorted(k for k in report["missing_keys"] if not k.startswith(_UNUSED))
        if missing:
            raise ConfigError(
                f"model.path: {self.path!r} has no weights for {', '.join(missing[:4])}"
                f"{' ...' if len(missing) > 4 else ''}; change model.options, or set "
                "model.pretrained to false"
            )
        network: nn.Module = found
        return network.train()

    def take(self, name: str, new: bool = False) -> nn.Module:
        """Makes one of the network's modules.

        Args:
            name: inside the network, e.g. `encoder.layer.3`.
            new: with initial weights, even if the network is pretrained.
        """
        if self.path is not None and not new:
            return copy.deepcopy(self._pretrained.get_submodule(name))
        module = copy.deepcopy(self.plan.get_submodule(name)).to_empty(device="cpu")
        with torch.no_grad():
            held = [*module.named_parameters(), *module.named_buffers()]
            for _, tensor in held:
                tensor.fill_(_blank(tensor))
            module.apply(self.plan._init_weights)  # type: ignore[arg-type]
        left = [own for own, tensor in held if _has_blank(tensor)]
        if left:
            raise RuntimeError(f"transformers gives {name}: {', '.join(left)} no initial value")
        return module


def _blank(tensor: Tensor) -> float | int:
    """A number that is no initial value."""
    return float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min


def _has_blank(tensor: Tensor) -> bool:
    if tensor.is_floating_point():
        return bool(tensor.isnan().any())
    return bool((tensor == _blank(tensor)).any())
