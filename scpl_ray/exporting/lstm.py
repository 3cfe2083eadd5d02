"""The bidirectional LSTM layer in a form that can be exported.

`models.text.BiLSTM` packs its sequences, and how much it packs depends on values: no exporter can
follow that. Here the same recurrence runs over all T steps and stands still at padding:

    (h, c)_t = cell(x_t, h, c)_{t-1}  at real tokens,  (h, c)_{t-1}  at padding

so that the states at the end are those of the last real token, and the backward direction, which
meets the padding first, begins at the last real token with the states that it was given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scpl_ray.errors import ConfigError
from scpl_ray.models.activation import Activation
from scpl_ray.models.layers import StreamLayer
from scpl_ray.models.text import BiLSTM

States = tuple[Tensor, Tensor]


class ScannedBiLSTM(StreamLayer):
    """Computes what a `BiLSTM` computes in evaluation, with its weights."""

    def __init__(self, layer: BiLSTM) -> None:
        super().__init__()
        self.lstm = layer.lstm

    def forward(self, activation: Activation) -> Activation:
        """[B, T, D] -> [B, T, 2H], with (h, c) [2, B, H]."""
        hidden, mask = activation.hidden, activation.mask
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        # A row of padding only is read as one pad token.
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        seen = mask | (first & ~mask.any(1, keepdim=True))
        if activation.states:
            start = (activation.states[0], activation.states[1])
        else:
            zeros = hidden.new_zeros(2, hidden.shape[0], self.lstm.hidden_size)
            start = (zeros, zeros)
        outputs, ends = [], []
        for direction in (0, 1):
            # Clones: scan takes no two views of one tensor.
            own = (start[0][direction].clone(), start[1][direction].clone())
            output, end = self._direction(hidden, seen, own, direction)
            outputs.append(output)
            ends.append(end)
        h, c = (torch.stack(states) for states in zip(*ends, strict=True))
        return activation.with_hidden(torch.cat(outputs, 2), (h, c))

    def _direction(
        self, hidden: Tensor, seen: Tensor, start: States, direction: int
    ) -> tuple[Tensor, States]:
        """One direction: (output [B, T, H], (h, c) each [B, H])."""
        try:
            from torch._higher_order_ops import scan
        except ImportError as error:
            raise ConfigError(
                f"model.kind: 'lstm' cannot be exported with torch {torch.__version__}, which has "
                "no scan; take a newer torch, or --to huggingface"
            ) from error
        end = "_l0_reverse" if direction else "_l0"
        w_input, w_hidden, b_input, b_hidden = (
            getattr(self.lstm, f"{name}{end}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        # For all steps at once: [T, B, 4H].
        given = nn.functional.linear(hidden.transpose(0, 1), w_input, b_input + b_hidden)

        def cell(states: States, step: States) -> tuple[States, Tensor]:
            (h, c), (x, real) = states, step
            in_, forget, new, out = (x + h @ w_hidden.t()).chunk(4, 1)
            c_next = forget.sigmoid() * c + in_.sigmoid() * new.tanh()
            h_next = out.sigmoid() * c_next.tanh()
            h_kept, c_kept = torch.where(real, h_next, h), torch.where(real, c_next, c)
            # Padding gives zeros, as unpacking does; and scan wants no tensor twice.
            return (h_kept, c_kept), torch.where(real, h_next, 0.0)

        steps = (given, seen.t().unsqueeze(2))
        last, output = scan(cell, start, steps, reverse=bool(direction))
        return output.transpose(0, 1), (last[0], last[1])
