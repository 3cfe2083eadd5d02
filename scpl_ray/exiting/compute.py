"""What answers cost: layers and FLOPs that are run up to each exit.

FLOPs are those of matrix products, convolutions and attention (a multiply-add is two), as
`torch.utils.flop_counter` counts them. It knows neither the fused kernel of a Transformer layer,
nor attention on CPU, nor an LSTM of oneDNN or cuDNN: for counting they are switched off, and what
runs in their place is counted. An embedding looks up and counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scpl_ray.early_exit import Rule, leave_early
from scpl_ray.models.activation import Activation
from scpl_ray.network import Network
from scpl_ray.stage_module import StageModule


@dataclass(frozen=True)
class Costs:
    """What each exit's answer to each sample costs when all exits before it were asked too.

    Attributes:
        layers: [E], layers that are run up to each exit.
        all_layers: of the network.
        flops: [E, N], FLOPs up to and with each exit's head.
        alone: [E, N], the same without the heads of the exits before it: a forward shortcut.
    """

    layers: Tensor
    all_layers: int
    flops: Tensor
    alone: Tensor

    @property
    def whole(self) -> float:
        """FLOPs of the last exit's answers to all samples, no other exit asked: 100 %."""
        return float(self.alone[-1].sum())

    def shares(self, stops: Tensor) -> tuple[float, float]:
        """Share of the network's (layers, FLOPs) that is run.

        Args:
            stops: [N], the position of the exit at which each sample leaves.
        """
        run = self.flops.gather(0, stops.unsqueeze(0)).sum()
        layers = self.layers[stops].double().mean() / self.all_layers
        return float(layers), float(run) / self.whole

    def alone_shares(self, exit_at: int) -> tuple[float, float]:
        """The same where one exit answers all samples; its position among the exits."""
        return (
            int(self.layers[exit_at]) / self.all_layers,
            float(self.alone[exit_at].sum()) / self.whole,
        )


@torch.no_grad()
def count(network: Network, given: Iterable[Activation]) -> Costs:
    """Counts what the batches cost up to each exit.

    Images: one sample of each shape is run, the rest cost the same. Texts: see `_texts`.

    Args:
        network: in evaluation mode.
        given: a split's batches.
    """
    known: dict[str, Tensor] = {}
    columns = []
    for activation in given:
        if activation.mask is not None:
            columns.append(_texts(network, activation, activation.mask))
            continue
        one = activation.rows(torch.arange(1))
        key = one.shapes()
        if key not in known:
            known[key] = _per_stage(network, one).unsqueeze(2)
        columns.append(known[key].expand(-1, -1, len(activation.hidden)))
    body, heads = torch.cat(columns, 2)
    at = [s.spec.number in network.exits for s in network.numbered()]
    before = body.cumsum(0)
    sizes = torch.tensor([len(s.names) for s in network.numbered()])
    return Costs(
        sizes.cumsum(0)[at],
        int(sizes.sum()),
        (before + heads.cumsum(0))[at],
        (before + heads)[at],
    )


def flops_run(network: Network, given: Iterable[Activation], rule: Rule) -> float:
    """FLOPs that are run while samples leave early: counted, not added up."""
    total = 0
    for activation in given:
        with countable(), FlopCounterMode(display=False) as counter:
            leave_early(network, activation, rule)
        total += counter.get_total_flops()
    return float(total)


def _texts(network: Network, activation: Activation, mask: Tensor) -> Tensor:
    """FLOPs of each text of a batch, [2, S, B]: of each stage's layers, and of its exit head.

    The batch is counted as it is and once more as if nothing were padding. The difference is what
    layers leave out at padding (an LSTM does, a Transformer computes it); it is taken off by the
    padding that each text has.
    """
    size, padding = len(mask), (~mask).sum(1)
    whole = _per_stage(network, replace(activation, mask=torch.ones_like(mask)))
    left_out = (whole - _per_stage(network, activation)) / padding.sum().clamp_min(1)
    return (whole / size).unsqueeze(2) - left_out.unsqueeze(2) * padding


def _per_stage(network: Network, activation: Activation) -> Tensor:
    """FLOPs of a batch, [2, S]: of each stage's layers, and of its exit head."""
    found = []
    for stage in network.numbered():
        with countable(), FlopCounterMode(display=False) as body:
            activation, _ = network.run_stage(stage, activation, answer=False)
        found.append([body.get_total_flops(), _head(stage, activation)])
    return torch.tensor(found, dtype=torch.float64).T


def _head(stage: StageModule, handed: Activation) -> int:
    if stage.objective.exit_head is None:
        return 0
    with countable(), FlopCounterMode(display=False) as counter:
        # Rounding on the border changes no shape.
        stage.objective.exit_head(stage.reduce(handed.floats_to(torch.float32)))
    return int(counter.get_total_flops())


@contextmanager
def countable() -> Iterator[None]:
    """Switches fused kernels off that the counter does not know."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        # Not `flags()`, which also sets what warns on machines without an Intel GPU.
        before = torch.backends.mkldnn.set_flags(False)
        stack.callback(torch.backends.mkldnn.set_flags, before[0])
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
