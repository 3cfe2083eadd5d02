"""What a stage's process is given to work on."""

from __future__ import annotations

from scpl_ray.data.batch import Batch
from scpl_ray.engine.transport import Packet

Given = Packet | Batch | list[Packet | Batch]


def one_of(given: Given, index: int | None) -> Packet | Batch:
    """An input that came alone, or as one of a list."""
    if isinstance(given, list):
        assert index is not None
        return given[index]
    return given


def size_mib(packet: Packet | Batch) -> float:
    """Its tensors'."""
    if isinstance(packet, Batch):
        return float(sum(array.nbytes for array in packet.inputs.values())) / 2**20
    return packet.nbytes / 2**20
