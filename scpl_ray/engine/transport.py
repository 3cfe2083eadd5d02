"""How an activation travels through Ray's object store, and how it is taken out again.

numpy arrays are read from the store without a copy (torch tensors are not), but the memory is
shared: `unpack` therefore always copies, and nothing ever writes into a shared object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scpl_ray.data.batch import Batch
from scpl_ray.models.activation import Activation, from_batch

_AS_INT16 = {"bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Packet:
    """An activation and its labels as plain arrays.

    Attributes:
        arrays: hidden, then the mask if there is one, then the states.
        dtypes: torch's names of their types (numpy has no bfloat16; it travels as int16).
        has_mask: whether the second array is the mask.
        labels: [B] int64.
    """

    arrays: tuple[np.ndarray, ...]
    dtypes: tuple[str, ...]
    has_mask: bool
    labels: np.ndarray


def pack(activation: Activation, labels: Tensor) -> Packet:
    """Moves an activation to host arrays."""
    tensors = [activation.hidden, *([] if activation.mask is None else [activation.mask])]
    tensors += activation.states
    dtypes = tuple(str(t.dtype)[6:] for t in tensors)
    return Packet(
        tuple(to_numpy(t) for t in tensors),
        dtypes,
        activation.mask is not None,
        labels.cpu().numpy(),
    )


def unpack(packet: Packet | Batch, device: torch.device) -> tuple[Activation, Tensor]:
    """Copies a packet, or the batch of the data process, into tensors of this process."""
    if isinstance(packet, Batch):
        activation, labels = from_batch(packet)
    else:
        tensors = [to_torch(a, d) for a, d in zip(packet.arrays, packet.dtypes, strict=True)]
        mask = tensors[1] if packet.has_mask else None
        activation = Activation(tensors[0], mask, tuple(tensors[1 + packet.has_mask :]))
        labels = torch.tensor(packet.labels)
    if device.type == "cpu":
        return activation, labels
    return activation.map(lambda t: t.to(device)), labels.to(device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of the host; of the same memory where it is there already."""
    host = tensor.detach().cpu().contiguous()
    return (host.view(torch.int16) if host.dtype == torch.bfloat16 else host).numpy()


def to_torch(array: np.ndarray, dtype: str) -> Tensor:
    """Copies an array into a tensor of the type of that name."""
    copied = torch.tensor(array)
    return copied.view(_AS_INT16[dtype]) if dtype in _AS_INT16 else copied
