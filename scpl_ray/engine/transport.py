"""How an activation travels from stage to stage, behind one small interface.

The object store is the default: numpy arrays are read from it without a copy (torch tensors are
not), but the memory is shared, so `unpack` always copies, and nothing ever writes into a shared
object. The other one, `direct`, reads tensors from the process that made them. Neither needs a
group of a fixed size: stages join and leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scpl_ray.data.batch import Batch
from scpl_ray.errors import ConfigError
from scpl_ray.models.activation import Activation, from_batch

_AS_INT16 = {"bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ArrayPacket:
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

    @property
    def nbytes(self) -> int:
        """Size of the activation."""
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class DirectPacket:
    """Where to read an activation and its labels.

    Attributes:
        ref: reference to the list of tensors: those of the activation, then the labels.
        has_mask: whether the second one is the mask.
        nbytes: size of the activation.
    """

    ref: Any
    has_mask: bool
    nbytes: int


Packet = ArrayPacket | DirectPacket


class Transport(Protocol):
    """What a stage sends and receives with.

    Attributes:
        name: as `pipeline.transport` has it.
    """

    name: str

    def pack(self, activation: Activation, labels: Tensor) -> Packet:
        """Makes of an activation what an actor returns and another one is given.

        The activation may change as soon as Ray has taken in what the actor returned.
        """

    def unpack(self, given: Packet | Batch) -> tuple[Activation, Tensor]:
        """Makes tensors of this process, on its device, that nobody else sees."""


def open_transport(wish: str, device: torch.device, who: str) -> Transport:
    """The transport of a process.

    Args:
        wish: object_store, nixl, or auto: nixl where this process has it.
        device: where it computes.
        who: the process, in words.

    Raises:
        ConfigError: nixl does not work in this process.
    """
    if wish == "object_store":
        return ObjectStore(device)
    from scpl_ray.engine.direct import Nixl, lacking

    why = lacking()
    if why and wish == "nixl":
        raise missing(who, why)
    return ObjectStore(device) if why else Nixl(device)


def missing(who: str, why: str) -> ConfigError:
    """Words that a process has not what `pipeline.transport: nixl` asks for."""
    return ConfigError(
        f"pipeline.transport: 'nixl' has activations go directly from stage to stage, but {who} "
        f"lacks what it takes ({why}). Install it on every machine (pip install nixl; Linux only; "
        "Ray 2.60 is known to work), or leave the key out; allowed: auto, object_store, nixl"
    )


class ObjectStore:
    """Arrays through Ray's object store.

    Args:
        device: where the process computes.
        staging: the way to and from a GPU; default: page-locked memory, on CUDA.
    """

    name = "object_store"

    def __init__(self, device: torch.device, staging: Staging | None = None) -> None:
        self.device = device
        self._staging = Staging(device) if staging is None and device.type == "cuda" else staging

    def pack(self, activation: Activation, labels: Tensor) -> Packet:
        """Moves an activation to host arrays; see `Transport.pack`."""
        tensors = tensors_of(activation)
        host = to_numpy if self._staging is None else self._staging.out
        arrays = [host(tensor) for tensor in (*tensors, labels)]
        if self._staging is not None:
            self._staging.wait()
        dtypes = tuple(str(t.dtype)[6:] for t in tensors)
        return ArrayPacket(tuple(arrays[:-1]), dtypes, activation.mask is not None, arrays[-1])

    def unpack(self, given: Packet | Batch) -> tuple[Activation, Tensor]:
        """Copies a packet, or the batch of the data process; see `Transport.unpack`."""
        take = torch.tensor if self._staging is None else self._staging.into
        if isinstance(given, Batch):
            return from_batch(given, take)
        assert isinstance(given, ArrayPacket), "who sends directly, sends to one who can receive"
        tensors = [
            _viewed(take(array), dtype)
            for array, dtype in zip(given.arrays, given.dtypes, strict=True)
        ]
        return activation_of(tensors, given.has_mask), take(given.labels)


class Staging:
    """Page-locked host memory on the way to and from a GPU: copies that do not stop the CPU.

    Each copy gets a buffer of its own, from torch's cache of such memory. The cache hands a buffer
    out again (for a request of about its size) when the tensor and the arrays on it are gone and
    the copies out of it are done. So what one call packs many times over, and what Ray has not
    taken in yet, is never overwritten.

    Args:
        device: the GPU.
        empty: allocates a page-locked tensor.
        synchronize: waits for the copies to the host.
    """

    def __init__(
        self,
        device: torch.device,
        empty: Callable[..., Tensor] = torch.empty,
        synchronize: Callable[[torch.device], None] | None = None,
    ) -> None:
        self._device, self._empty = device, empty
        self._synchronize = _synchronize if synchronize is None else synchronize

    def out(self, tensor: Tensor) -> np.ndarray:
        """Begins to copy a tensor to the host; the array is good after `wait`."""
        host = self._empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor.detach(), non_blocking=True)
        return to_numpy(host)

    def wait(self) -> None:
        """Waits until all that was begun has been copied."""
        self._synchronize(self._device)

    def into(self, array: np.ndarray) -> Tensor:
        """Copies an array to the GPU; what is computed with it there waits for the copy."""
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        host = self._empty(array.shape, dtype=dtype, pin_memory=True)
        np.copyto(host.numpy(), array)
        return host.to(self._device, non_blocking=True)


def _synchronize(device: torch.device) -> None:
    torch.cuda.current_stream(device).synchronize()


def tensors_of(activation: Activation) -> list[Tensor]:
    """Hidden, then the mask if there is one, then the states."""
    mask = [] if activation.mask is None else [activation.mask]
    return [activation.hidden, *mask, *activation.states]


def activation_of(tensors: list[Tensor], has_mask: bool) -> Activation:
    """Hidden, then the mask if there is one, then the states, as an activation."""
    mask = tensors[1] if has_mask else None
    return Activation(tensors[0], mask, tuple(tensors[1 + has_mask :]))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of the host; of the same memory where it is there already."""
    host = tensor.detach().cpu().contiguous()
    return (host.view(torch.int16) if host.dtype == torch.bfloat16 else host).numpy()


def named_array(tensor: Tensor) -> tuple[np.ndarray, str]:
    """A tensor as `to_numpy` gives it, with torch's name of its type, for `to_torch`."""
    return to_numpy(tensor), str(tensor.dtype)[6:]


def to_torch(array: np.ndarray, dtype: str) -> Tensor:
    """Copies an array into a tensor of the type of that name."""
    return _viewed(torch.tensor(array), dtype)


def _viewed(tensor: Tensor, dtype: str) -> Tensor:
    return tensor.view(_AS_INT16[dtype]) if dtype in _AS_INT16 else tensor
