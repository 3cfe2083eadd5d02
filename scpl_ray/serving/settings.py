"""What `scpl-ray serve` is told. Neither torch nor Ray."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from scpl_ray.errors import ConfigError

TOKEN_VARIABLE = "SCPL_RAY_TOKEN"
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Limits:
    """What one request, and one client, may ask.

    Attributes:
        body_kib: the longest body.
        inputs: the most texts or images of a request.
        text_chars: the longest text.
        image_pixels: the most pixels of a request's images, looked at before one is decoded.
        rate: requests a second of one client address, on average; 0: without limit.
        burst: requests that a client may make at once.
        pending: requests that are answered at the same time; more get 503.
        body_s: how long a body may take to arrive.
        answer_s: how long an answer may take; a stage that died is back within this, or it is 503.
    """

    body_kib: int = 4096
    inputs: int = 64
    text_chars: int = 20_000
    image_pixels: int = 25_000_000
    rate: float = 100.0
    burst: int = 200
    pending: int = 256
    body_s: float = 10.0
    answer_s: float = 30.0


@dataclass(frozen=True)
class Settings:
    """How a run is served.

    Attributes:
        threshold: when an exit is sure, see `early_exit.Rule`.
        measure: "confidence" or "entropy".
        host: address to listen on.
        port: 0: any that is free.
        token: what clients must present; empty: nothing.
        replicas: processes of each stage.
        max_batch: samples that a stage computes at once.
        batch_wait_ms: how long a stage waits for more samples.
        limits: of requests.
    """

    threshold: float = 0.9
    measure: str = "confidence"
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default="", repr=False)
    replicas: int = 1
    max_batch: int = 64
    batch_wait_ms: float = 2.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise ConfigError(
                f"--host: {self.host!r} can be reached by others, so a token is needed: --token, "
                f"or {TOKEN_VARIABLE} in the environment (openssl rand -hex 16 makes one)"
            )
        if self.token and (len(self.token) < _SHORTEST_TOKEN or not self.token.isascii()):
            raise ConfigError(
                f"--token: {len(self.token)} characters; give at least {_SHORTEST_TOKEN}, ASCII "
                "only (openssl rand -hex 16 makes one)"
            )

    def check_threshold(self, classes: int) -> None:
        """Refuses a threshold that cannot be meant.

        Raises:
            ConfigError: it is out of range.
        """
        most = most_of(self.measure, classes)
        if not 0 <= self.threshold <= most:
            raise ConfigError(
                f"--threshold: {self.threshold:g}; {self.measure} goes from 0 to {most:.4g}"
            )


def most_of(measure: str, classes: int) -> float:
    """The largest threshold: 1, or the entropy in nats of not knowing at all."""
    import math

    return 1.0 if measure == "confidence" else math.log(classes)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
