"""Does what was exported answer as the network does?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import RunError
from scpl_ray.exporting.plain import named_exits
from scpl_ray.network import Network

TOLERANCE = 1e-5
_BATCHES = ((1, 1), (2, 7), (97, 16))  # samples, and the most tokens of a text

Inputs = dict[str, Tensor]
Answer = Callable[[Inputs], Mapping[str, Tensor]]


def made_up(info: DataInfo, samples: int, time: int) -> Inputs:
    """Inputs of the right form: texts of random words, of many lengths; random pixels.

    Args:
        info: what the network was trained on.
        samples: B.
        time: the most tokens.
    """
    draw = torch.Generator().manual_seed(samples)
    if info.kind != "text":
        return {"images": torch.randn(samples, *info.image_shape, generator=draw)}
    time = min(time, info.max_len)
    tokens = torch.randint(info.vocab_size, (samples, time), generator=draw)
    lengths = torch.randint(1, time + 1, (samples, 1), generator=draw)
    mask = torch.arange(time) < lengths
    return {"tokens": tokens.where(mask, 0), "mask": mask}


@torch.no_grad()
def difference(network: Network, answer: Answer, inputs: Inputs) -> float:
    """The largest difference of a logit, relative to logits above 1.

    Args:
        network: in evaluation mode.
        answer: what was exported.
        inputs: a batch.
    """
    worst = 0.0
    found = answer(inputs)
    for name, expected in named_exits(network, inputs).items():
        apart = (found[name] - expected).abs() / expected.abs().clamp_min(1)
        worst = max(worst, float(apart.nan_to_num(torch.inf).max()))
    return worst


def check(network: Network, answer: Answer) -> tuple[int, float]:
    """Compares on 100 made-up inputs, in batches of several sizes.

    Returns:
        How many inputs, and the largest difference.

    Raises:
        RunError: it is more than TOLERANCE.
    """
    sizes = [(size, min(time, network.info.max_len or time)) for size, time in _BATCHES]
    worst = max(
        difference(network, answer, made_up(network.info, size, time)) for size, time in sizes
    )
    if worst > TOLERANCE:
        raise RunError(
            f"what was exported answers otherwise than the network: logits differ by {worst:.2g}, "
            f"more than {TOLERANCE:g}; nothing was written. Please report it with the run's config"
        )
    return sum(size for size, _ in sizes), worst
