"""When and where the process of a stage started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """When a stage's process was where, in seconds since 1970.

    Attributes:
        pid: the process.
        process_at: it was made; Ray may have made it ahead.
        imports_at: the first import of ours began.
        init_at: imports were done.
        built_at: the layers were on their device.
        node: Ray's id of the machine.
        replicas: the stage's other processes.
        transport: what it sends with.
    """

    pid: int
    process_at: float
    imports_at: float
    init_at: float
    built_at: float
    node: str = ""
    transport: str = "object_store"
    replicas: tuple[Started, ...] = ()

    @property
    def all(self) -> tuple[Started, ...]:
        """All processes of the stage."""
        return (self, *self.replicas)
