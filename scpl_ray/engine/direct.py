"""Activations straight from one process to another: NIXL, through Ray Direct Transport.

The tensors stay with the process that made them, and the one that is given the packet reads them
from there: one-sided, without a group. `ray.put` inside the actor serves, rather than
`@ray.method(tensor_transport=...)`, which allows one return value a method. What is held so dies
with its process, so it cannot be replayed: `transport_choice` keeps it away from fault tolerance.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ray
import torch
from torch import Tensor

from scpl_ray.data.batch import Batch
from scpl_ray.engine.transport import DirectPacket, ObjectStore, Packet, activation_of, tensors_of
from scpl_ray.models.activation import Activation


class Nixl(ObjectStore):
    """Tensors read from the memory of the process that made them; batches come as ever."""

    name = "nixl"

    def pack(self, activation: Activation, labels: Tensor) -> Packet:
        """Keeps copies here until the packet is forgotten; see `Transport.pack`."""
        tensors = tensors_of(activation)
        # Copies: the stage may yet write into what it computed, and of a view NIXL would register
        # the whole.
        kept = [
            t.detach().to(self.device, memory_format=torch.contiguous_format, copy=True)
            for t in (*tensors, labels)
        ]
        ref = ray.put(kept, _tensor_transport="nixl")
        return DirectPacket(ref, activation.mask is not None, sum(t.nbytes for t in kept[:-1]))

    def unpack(self, given: Packet | Batch) -> tuple[Activation, Tensor]:
        """Reads a packet into fresh tensors; see `Transport.unpack`."""
        if not isinstance(given, DirectPacket):
            return super().unpack(given)
        from ray.experimental import set_target_device_for_ref

        # The stages that have left compute on the CPU, whatever those that train do.
        set_target_device_for_ref(given.ref, str(self.device))
        *tensors, labels = ray.get(given.ref)
        _forget(given.ref)
        return activation_of(tensors, given.has_mask), labels


def _forget(ref: Any) -> None:
    """Drops what Ray (2.60) keeps for ever about each packet that was read: some kilobytes."""
    manager = getattr(ray._private.worker.global_worker, "rdt_manager", None)
    getattr(manager, "_managed_rdt_metadata", {}).pop(ref.hex(), None)


def not_importable() -> str:
    """Why the parts are not there; empty: they are."""
    try:
        import nixl._api  # noqa: F401
        from ray.experimental import set_target_device_for_ref  # noqa: F401
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@cache
def lacking() -> str:
    """Why this process cannot send and receive directly; empty: it can. Starts NIXL's agent."""
    if why := not_importable():
        return why
    from ray.experimental.rdt.util import get_tensor_transport_manager

    try:
        manager: Any = get_tensor_transport_manager("NIXL")
        manager.get_nixl_agent()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
