"""What is checked before a request is read: host, rate, token, how many at once, its size."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scpl_ray.serving.refusal import Refused
from scpl_ray.serving.settings import Limits, Settings, is_loopback

OPEN_PATHS = ("/", "/health")
"""Need no token: the page holds no secret and asks for the token; health says little."""
_CLIENTS = 10_000


class Buckets:
    """A bucket of tokens for each client; the clients seen longest ago are forgotten.

    Args:
        rate: tokens that come each second; 0: no limit.
        burst: the most that a bucket holds.
        clock: seconds.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Takes a token, or says in how many seconds there will be one."""
        if not self.rate:
            return 0.0
        now = self.clock()
        tokens, then = self._seen.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        admitted = tokens >= 1
        self._seen[client] = (tokens - admitted, now)
        if len(self._seen) > _CLIENTS:
            self._seen.popitem(last=False)
        return 0.0 if admitted else (1 - tokens) / self.rate


class Guard:
    """ASGI middleware in front of the app."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.buckets = Buckets(settings.limits.rate, settings.limits.burst)
        self.pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self._check(scope)
        except Refused as error:
            await error.response()(scope, receive, send)
            return
        self.pending += 1
        try:
            await self.app(scope, Body(receive, self.settings.limits), send)
        finally:
            self.pending -= 1

    def _check(self, scope: Scope) -> None:
        headers, limits = Headers(scope=scope), self.settings.limits
        self._check_host(headers)
        client = scope["client"][0] if scope.get("client") else ""
        if wait := self.buckets.wait_s(client):
            raise Refused(
                429,
                "client",
                f"more than {limits.rate:g} requests a second; wait",
                {"Retry-After": str(ceil(wait))},
            )
        if self.settings.token and scope["path"] not in OPEN_PATHS:
            self._check_token(headers)
        if scope["path"] == "/predict" and self.pending >= limits.pending:
            raise Refused(
                503,
                "server",
                f"{limits.pending} requests are being answered; try again",
                {"Retry-After": "1"},
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limits.body_kib * 1024:
            raise too_large(limits)

    def _check_host(self, headers: Headers) -> None:
        """A page from elsewhere could have its own name point at this machine (DNS rebinding)."""
        if self.settings.token:
            return
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if not is_loopback(name.strip("[]")):
            raise Refused(
                421, "header Host", "this server is for its own machine: 127.0.0.1 or localhost"
            )

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        expected = self.settings.token.encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), expected
        ):
            raise Refused(
                401,
                "header Authorization",
                "missing or wrong; send Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )


class Body:
    """Receives a request's body within its limits."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits = receive, limits
        self.bytes = 0
        self.deadline = time.monotonic() + limits.body_s
        self.whole = False

    async def __call__(self) -> Message:
        """The next part.

        Raises:
            Refused: it is too long, or comes too slowly.
        """
        if self.whole:
            return await self.receive()
        try:
            left = max(0.0, self.deadline - time.monotonic())
            message = await asyncio.wait_for(self.receive(), left)
        except asyncio.TimeoutError:
            raise Refused(
                408,
                "body",
                f"not whole after {self.limits.body_s:g} s",
                {"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            self.bytes += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self.bytes > self.limits.body_kib * 1024:
                raise too_large(self.limits)
        return message


def too_large(limits: Limits) -> Refused:
    """For a body over the limit; the connection ends, for the rest is not read."""
    return Refused(
        413, "body", f"larger than {limits.body_kib} KiB; send less", {"Connection": "close"}
    )
