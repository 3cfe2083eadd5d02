"""Any encoder of the Hugging Face package `transformers`, cut by its own list of layers.

    embeddings | encoder.1 | ... | encoder.N | norm (where the network ends in one)

The package's own modules do the work. From a configuration, every layer gets initial weights by the
package's rules, drawn from (seed, layer name); pretrained, those of `model.path`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from scpl_ray import huggingface as hf
from scpl_ray.config.schema import ModelConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import ConfigError
from scpl_ray.models.activation import Activation
from scpl_ray.models.growth import per_layer
from scpl_ray.models.huggingface_source import Source
from scpl_ray.models.layers import (
    LayeredModel,
    LayerSpec,
    StreamLayer,
    mean_over_padded,
    mean_over_tokens,
)


class Embeddings(StreamLayer):
    """Token ids [B, T] or images [B, C, H, W] -> [B, T, D].

    Args:
        module: of the package.
        pad_id: what stands at padding; None: images.
        most: the longest text.
    """

    def __init__(self, module: nn.Module, pad_id: int | None, most: int) -> None:
        super().__init__()
        self.module, self.pad_id, self.most = module, pad_id, most

    def forward(self, activation: Activation) -> Activation:
        """Embeds; see the class."""
        given = activation.hidden
        if self.pad_id is None:
            return activation.with_hidden(self.module(given))
        if given.shape[1] > self.most:
            raise ValueError(
                f"a text of {given.shape[1]} tokens, but the network has {self.most} positions; "
                "cut the text"
            )
        if activation.mask is not None:
            # Some count positions by what is not padding.
            given = given.masked_fill(~activation.mask, self.pad_id)
        return activation.with_hidden(self.module(input_ids=given))


class EncoderLayer(StreamLayer):
    """One layer of the encoder, [B, T, D] -> [B, T, D].

    Args:
        module: of the package.
        hf_config: the network's; decides the form of the mask.
        norm: after it; where a network that ends in a norm has grown.
    """

    def __init__(self, module: nn.Module, hf_config: Any, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.module, self.hf_config, self.norm = module, hf_config, norm
        self.wide_mask = hf.package("transformers.masking_utils").create_bidirectional_mask

    def forward(self, activation: Activation) -> Activation:
        """Attends over real tokens; a row of padding only attends to itself, so stays finite."""
        hidden, mask = activation.hidden, activation.mask
        wide: Tensor | None = None
        if mask is not None:
            seen = mask | ~mask.any(1, keepdim=True)
            wide = self.wide_mask(self.hf_config, hidden, seen)
        output = self.module(hidden, wide)
        output = output[0] if isinstance(output, tuple) else output
        return activation.with_hidden(output if self.norm is None else self.norm(output))


def huggingface(config: ModelConfig, data: DataInfo) -> LayeredModel:
    """Embeddings, encoder layers and, where the network ends in one, its norm.

    Args:
        config: `path`, `pretrained` and `options` are read.
        data: what the network must fit; one from `options` alone is made to fit.

    Raises:
        ConfigError: the network cannot be had, or does not fit the data.
    """
    hf_config = hf.read_config(config, _defaults(data))
    source = Source(hf_config, config.path if config.pretrained else None)
    width: int = hf_config.hidden_size
    text = hf.input_kind(hf_config) == "text"
    most = _check_text(source, data) if text else _check_images(hf_config, data)
    reduce = mean_over_padded if config.mean_over == "padded" else mean_over_tokens
    count = source.num_layers
    pad_id = (hf_config.pad_token_id or 0) if text else None

    def embeddings() -> nn.Module:
        return Embeddings(source.take("embeddings"), pad_id, most)

    def encoder(i: int) -> nn.Module:
        if i < count:
            return EncoderLayer(source.take(f"{source.list}.{i}"), hf_config)
        last = source.take(f"{source.list}.{count - 1}", new=True)
        norm = source.take(source.norm, new=True) if source.norm else None
        return EncoderLayer(last, hf_config, norm)

    def layer(i: int) -> LayerSpec:
        return LayerSpec(f"encoder.{i + 1}", partial(encoder, i), reduce, width)

    specs = [LayerSpec("embeddings", embeddings, reduce, width), *map(layer, range(count))]
    if source.norm:
        specs.append(LayerSpec("norm", partial(source.take, source.norm), reduce, width))
    specs += [layer(i) for i in range(count, len(per_layer(config, count)))]
    return LayeredModel(tuple(specs), style="text" if text else "image")


def fitting_info(config: ModelConfig) -> DataInfo:
    """Facts of data that the network would take, for what only asks for its layers."""
    hf_config = hf.read_config(config)
    if hf.input_kind(hf_config) == "text":
        return DataInfo("", "", "text", (), {}, vocab_size=hf_config.vocab_size, max_len=1)
    size = _size(hf_config.image_size)
    return DataInfo("", "", "image", (), {}, image_shape=(hf_config.num_channels, *size))


def _size(given: Any) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else (int(given[0]), int(given[1]))


def _defaults(data: DataInfo) -> dict[str, Any]:
    """What a network without a path takes from the data; padding is 0 in our vocabulary."""
    if data.kind == "text":
        return {"vocab_size": data.vocab_size, "pad_token_id": 0}
    channels, height, width = data.image_shape
    size = height if height == width else [height, width]
    return {"image_size": size, "num_channels": channels}


def _check_text(source: Source, data: DataInfo) -> int:
    """Returns how many tokens a text may have."""
    if data.vocab_size > source.hf_config.vocab_size:
        raise ConfigError(
            f"model.kind: 'huggingface': the tokenizer has {data.vocab_size} token ids, the "
            f"network {source.hf_config.vocab_size} (vocab_size): they do not belong together"
        )
    table = source.plan.get_submodule("embeddings.position_embeddings")
    assert isinstance(table, nn.Embedding)
    # RoBERTa and its kin count from behind the id of padding.
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    most = table.num_embeddings - first
    if data.max_len > most:
        raise ConfigError(
            f"data.max_len: {data.max_len} is more than the {most} positions of the network; lower "
            "it"
        )
    return most


def _check_images(hf_config: Any, data: DataInfo) -> int:
    own = (hf_config.num_channels, *_size(hf_config.image_size))
    if own != tuple(data.image_shape):
        raise ConfigError(
            f"model.kind: 'huggingface': the network takes images of {own} (channels, height, "
            f"width), {data.name!r} gives {tuple(data.image_shape)}; resize the data, or describe "
            "a network of that size in model.options"
        )
    patch = _size(hf_config.patch_size)
    if patch[0] > own[1] or patch[1] > own[2]:
        raise ConfigError(
            f"model.options: patch_size: {hf_config.patch_size} is more than the image's "
            f"{own[1]} x {own[2]} pixels; lower it"
        )
    return 0
