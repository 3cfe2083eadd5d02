"""Randomness as a function of (seed, purpose, index) alone, never of process history.

Every draw of the system (initialisation, dropout, shuffling) takes its generator's seed from
`derive_seed`. That is what makes streaming, local, resumed and recovered runs identical.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derives an independent 63-bit seed.

    Args:
        seed: the run's seed.
        purpose: what the draw is for, e.g. `("forward", "encoder.2", 17)`.

    Returns:
        A seed in [0, 2**63), the same on every machine and in every process.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Returns a numpy generator for one purpose."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive_seed(seed, *purpose)))


def seed_device(device: torch.device, seed: int) -> None:
    """Seeds the generators from which layers on this device draw.

    On the CPU its own alone: `torch.manual_seed` asks all other devices too, which takes longer
    than a small layer.
    """
    import torch

    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Runs a block with torch's generators seeded for one purpose, and restores them after."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, *purpose))
        yield


@contextlib.contextmanager
def reseeding() -> Iterator[Callable[..., object]]:
    """Gives a block a function `reseed(seed, *purpose)` for torch's CPU generator, restored after.

    For many small draws on the CPU: unlike `seeded` it leaves the generators of devices alone, so
    it waits for no device.
    """
    import torch

    def reseed(seed: int, *purpose: str | int) -> None:
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))

    with torch.random.fork_rng(devices=[]):
        yield reseed
