"""Text models: an embedding layer, then Transformer encoder or bidirectional LSTM layers."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from scpl_ray.config.schema import ModelConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.models.activation import Activation
from scpl_ray.models.growth import per_layer
from scpl_ray.models.layers import (
    LayeredModel,
    LayerSpec,
    StreamLayer,
    mean_of_states,
    mean_over_padded,
    mean_over_tokens,
)

WordVectors = tuple[np.ndarray, np.ndarray]


class TokenEmbedding(StreamLayer):
    """Token ids [B, T] -> [B, T, D]: embedding, optional projection, position, dropout.

    Args:
        vocab_size: number of token ids; id 0 is padding.
        embedding_width: width of the embedding; projected where it differs from `width`.
        width: D.
        dropout: share of zeroed outputs.
        positional: "learned", "sinusoidal" or "none".
        max_len: the longest text, for learned positions.
        vectors: (matrix [V, embedding_width], found [V]): start rows found from a file.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_width: int,
        width: int,
        dropout: float,
        positional: str,
        max_len: int,
        vectors: WordVectors | None = None,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embedding_width, padding_idx=0)
        # torch's N(0, 1) is large against what an optimizer moves in a few epochs: on short texts
        # the stages then learn the noise of rare words.
        nn.init.normal_(self.tokens.weight, std=0.1)
        with torch.no_grad():
            self.tokens.weight[0] = 0
        if vectors is not None:
            matrix, found = vectors
            with torch.no_grad():
                rows = torch.from_numpy(np.flatnonzero(found))
                self.tokens.weight[rows] = torch.tensor(matrix)[rows]
                self.tokens.weight[0] = 0
        self.project = nn.Linear(embedding_width, width) if embedding_width != width else None
        self.positions: nn.Embedding | None = None
        if positional == "learned":
            self.positions = nn.Embedding(max_len, width)
            nn.init.normal_(self.positions.weight, std=0.02)
        self.sinusoidal = positional == "sinusoidal"
        self.dropout = nn.Dropout(dropout)

    def forward(self, activation: Activation) -> Activation:
        """Embeds the ids; see the class."""
        ids = activation.hidden
        hidden = self.tokens(ids)
        if self.project is not None:
            hidden = self.project(hidden)
        time = ids.shape[1]
        if self.positions is not None:
            if time > self.positions.num_embeddings:
                raise ValueError(
                    f"a text of {time} tokens, but positions are learned up to data.max_len "
                    f"({self.positions.num_embeddings}); cut the text"
                )
            hidden = hidden + self.positions.weight[:time]
        elif self.sinusoidal:
            hidden = hidden + sinusoids(time, hidden.shape[-1], hidden)
        return activation.with_hidden(self.dropout(hidden))


def sinusoids(time: int, width: int, like: Tensor) -> Tensor:
    """Positional encoding [T, D] of Vaswani et al. 2017 (arXiv 1706.03762), section 3.5."""
    position = torch.arange(time, dtype=torch.float32, device=like.device).unsqueeze(1)
    step = torch.arange(0, width, 2, dtype=torch.float32, device=like.device)
    angle = position * torch.exp(step * (-math.log(10_000.0) / width))
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
    return table.to(like.dtype)


class Encoder(StreamLayer):
    """One pre-norm Transformer encoder layer and a norm after it, [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, ffn, dropout, activation="relu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, activation: Activation) -> Activation:
        """Attends over real tokens; a row of padding only attends to itself, so stays finite."""
        padding = None
        if activation.mask is not None:
            padding = ~activation.mask & activation.mask.any(1, keepdim=True)
        hidden = self.encoder(activation.hidden, src_key_padding_mask=padding)
        return activation.with_hidden(self.norm(hidden))


class BiLSTM(StreamLayer):
    """One bidirectional LSTM layer, [B, T, D] -> [B, T, 2H], with its (h, c) [2, B, H].

    Starts from the states of the layer before it, where that is an LSTM layer too. Sequences
    are packed, so padding changes nothing; a row of padding only is read as one pad token.
    """

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_width, width, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, activation: Activation) -> Activation:
        """Runs over the packed sequences.

        On CPU always in the weights' precision: oneDNN has a bfloat16 LSTM for few CPUs only.
        """
        if activation.hidden.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                dtype = next(self.lstm.parameters()).dtype
                hidden = activation.hidden.to(dtype)
                return self._run(
                    activation.with_hidden(hidden, tuple(s.to(dtype) for s in activation.states))
                )
        return self._run(activation)

    def _run(self, activation: Activation) -> Activation:
        hidden, mask = self.dropout(activation.hidden), activation.mask
        start = (activation.states[0], activation.states[1]) if activation.states else None
        if mask is None:
            output, (h, c) = self.lstm(hidden, start)
            return activation.with_hidden(output, (h, c))
        lengths = mask.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
        output, (h, c) = self.lstm(packed, start)
        padded, _ = pad_packed_sequence(output, batch_first=True, total_length=hidden.shape[1])
        return activation.with_hidden(padded, (h, c))


def _embedding(
    config: ModelConfig, data: DataInfo, vectors: WordVectors | None, positional: str
) -> LayerSpec:
    dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout
    inner = config.embedding_width or config.width
    width = inner if config.kind == "lstm" else config.width
    reduce = mean_over_tokens if config.mean_over == "tokens" else mean_over_padded
    return LayerSpec(
        "embedding",
        lambda: TokenEmbedding(
            data.vocab_size, inner, width, dropout, positional, data.max_len, vectors
        ),
        reduce,
        width,
    )


def transformer(
    config: ModelConfig, data: DataInfo, vectors: WordVectors | None = None
) -> LayeredModel:
    """Embedding + N encoder layers."""
    reduce = mean_over_tokens if config.mean_over == "tokens" else mean_over_padded
    width = config.width
    encoders = [
        LayerSpec(
            f"encoder.{i}",
            partial(Encoder, width, own.heads, own.ffn or width, own.dropout),
            reduce,
            width,
        )
        for i, own in enumerate(per_layer(config, config.layers), 1)
    ]
    return LayeredModel((_embedding(config, data, vectors, config.positional), *encoders))


def lstm(config: ModelConfig, data: DataInfo, vectors: WordVectors | None = None) -> LayeredModel:
    """Embedding + N bidirectional LSTM layers."""
    width, layers = config.embedding_width or config.width, []
    for i, own in enumerate(per_layer(config, config.layers), 1):
        # The embedding layer has a dropout of its own; between LSTM layers it is here.
        dropout = 0.0 if i == 1 else own.dropout
        build = partial(BiLSTM, width, own.width, dropout)
        layers.append(LayerSpec(f"lstm.{i}", build, mean_of_states, own.width))
        width = 2 * own.width
    return LayeredModel((_embedding(config, data, vectors, "none"), *layers))
