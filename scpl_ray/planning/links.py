"""Links between stages, and how a user writes them: `400Gb/s`, `25GB/s`, `20us`. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scpl_ray.errors import ConfigError

# Network rates are decimal: 1 Gb/s = 10^9 bits a second. Sizes of tensors are binary (MiB).
_PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Link:
    """A link that carries one thing after another.

    Attributes:
        latency_s: seconds until the first byte arrives; does not hold the link.
        bytes_s: bytes a second; infinite: free.
    """

    latency_s: float = 0.0
    bytes_s: float = math.inf

    def holds_s(self, mib: float) -> float:
        """Seconds for which so many MiB occupy the link."""
        return mib * 2**20 / self.bytes_s

    def seconds(self, mib: float) -> float:
        """Seconds until all of it has arrived over an idle link."""
        return self.latency_s + self.holds_s(mib)


FREE = Link()


def parse_rate(text: str) -> float:
    """Bytes a second of `400Gb/s`, `10Gbit/s`, `25GB/s`: a small b is bits, a large B bytes.

    Raises:
        ConfigError: with examples.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)(bit|b|B)(?:/s|ps)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise ConfigError(
            f"--link: {text!r} is no rate; write bits as 400Gb/s or 10Gb/s, bytes as 25GB/s"
        )
    scale = _PREFIX[found[2].lower()]
    if found[3]:
        scale = 1024.0 ** round(math.log(scale, 1000)) if scale > 1 else 1.0
    return float(found[1]) * scale / (1 if found[4] == "B" else 8)


def parse_latency(text: str, option: str = "--latency") -> float:
    """Seconds of `20us`, `1ms`, `0s`.

    Raises:
        ConfigError: with examples.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s)", text.strip())
    if found is None:
        raise ConfigError(f"{option}: {text!r} is no time; write 20us, 1ms or 0s")
    return float(found[1]) * _SECONDS[found[2]]
