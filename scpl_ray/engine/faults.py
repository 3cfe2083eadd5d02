"""How the parts of the engine tell each other that something died. No Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scpl_ray.errors import ScplRayError

if TYPE_CHECKING:
    from scpl_ray.engine.member import Member


class Broken(Exception):
    """Something died on the way."""

    def __init__(self, why: str, suspects: tuple[Member, ...] = ()) -> None:
        super().__init__(why)
        self.why, self.suspects = why, suspects


class ProcessDied(ScplRayError):
    """A process that was asked something is gone."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause
