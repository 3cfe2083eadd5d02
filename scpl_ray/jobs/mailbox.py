"""The named actor through which a job is addressed, on any machine of its cluster.

It holds what the driver last said of itself and the commands that the driver has not taken yet.
It is owned by the driver and shares its fate; killed, it comes back empty, the driver tells it
again, and whoever asks sends a command again until it is known.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

NAMESPACE = "scpl-ray"
PREFIX = "job:"


class Mailbox:
    """Lies between a job and those who ask.

    Args:
        card: who the job is; survives a restart.
    """

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card
        self.status: dict[str, Any] = {}
        self.told_at = 0.0
        self.commands: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()

    async def exchange(self, status: dict[str, Any], wait_s: float) -> list[dict[str, Any]]:
        """The driver tells its status and takes the commands, after waiting for one."""
        self.status, self.told_at = status, time.time()
        if not self.commands:
            try:
                await asyncio.wait_for(self.arrived.wait(), wait_s)
            except asyncio.TimeoutError:
                return []
        self.arrived.clear()
        taken, self.commands = self.commands, []
        return taken

    async def post(self, command: dict[str, Any]) -> None:
        """Leaves a command for the driver."""
        self.commands.append(command)
        self.arrived.set()

    async def read(self) -> dict[str, Any]:
        """What the driver last said: card, status, and how old it is in seconds."""
        return {
            "card": self.card,
            "status": self.status,
            "age_s": time.time() - self.told_at if self.told_at else None,
        }
