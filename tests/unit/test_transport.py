from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch

from scpl_ray.data.batch import Batch
from scpl_ray.engine.transport import Packet, pack, unpack
from scpl_ray.models import Activation

CPU = torch.device("cpu")
LABELS = torch.tensor([1, 0, 1])
MASK = torch.tensor([[True, False], [True, True], [False, False]])


def activation(dtype: torch.dtype, mask: bool, states: int) -> Activation:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 2, 4, generator=draw).to(dtype)
    return Activation(
        hidden,
        MASK.clone() if mask else None,
        tuple(torch.randn(2, 3, 4, generator=draw).to(dtype) for _ in range(states)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("states", [0, 2])
def test_roundtrip(dtype: torch.dtype, mask: bool, states: int) -> None:
    before = activation(dtype, mask, states)
    packet = pickle.loads(pickle.dumps(pack(before, LABELS)))
    after, labels = unpack(packet, CPU)
    assert after.hidden.dtype == dtype
    assert torch.equal(after.hidden, before.hidden)
    assert (after.mask is None) == (not mask)
    if mask:
        assert after.mask is not None
        assert after.mask.dtype == torch.bool
        assert torch.equal(after.mask, MASK)
    assert len(after.states) == states
    for got, wanted in zip(after.states, before.states, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, wanted)
    assert torch.equal(labels, LABELS)
    assert labels.dtype == torch.int64


def test_bfloat16_keeps_every_bit() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).reshape(-1, 1)
    after, _ = unpack(pack(Activation(bits.view(torch.bfloat16)), LABELS), CPU)
    assert torch.equal(after.hidden.view(torch.int16), bits)


def test_token_ids_and_strided_tensors() -> None:
    ids = torch.arange(6).reshape(2, 3).T
    after, _ = unpack(pack(Activation(ids), LABELS), CPU)
    assert after.hidden.dtype == torch.int64
    assert torch.equal(after.hidden, ids)


def test_a_gradient_does_not_travel() -> None:
    hidden = torch.ones(3, 2, requires_grad=True) * 2
    after, _ = unpack(pack(Activation(hidden), LABELS), CPU)
    assert not after.hidden.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpack_copies(dtype: torch.dtype) -> None:
    packet = pack(activation(dtype, True, 2), LABELS)
    kept = [a.copy() for a in packet.arrays]
    after, labels = unpack(packet, CPU)
    after.hidden.fill_(7)
    assert after.mask is not None
    after.mask.fill_(True)
    for state in after.states:
        state.fill_(7)
    labels.fill_(7)
    for array, before in zip(packet.arrays, kept, strict=True):
        assert np.array_equal(array, before)
    assert packet.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_read_only_arrays_are_taken_without_warnings(dtype: torch.dtype) -> None:
    before = activation(dtype, True, 2)
    packet = pack(before, LABELS)
    arrays = tuple(a.copy() for a in packet.arrays)
    frozen = Packet(arrays, packet.dtypes, True, packet.labels.copy())
    for array in (*frozen.arrays, frozen.labels):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, labels = unpack(frozen, CPU)
    after.hidden.add_(1)
    labels.add_(1)
    assert torch.equal(after.hidden, before.hidden + 1)


@pytest.mark.parametrize("mask", [True, False])
def test_text_batches_of_the_data_process(mask: bool) -> None:
    inputs = {"tokens": np.array([[3, 0], [4, 5]])}
    if mask:
        inputs["mask"] = inputs["tokens"] != 0
    batch = Batch(inputs, np.array([0, 1]), 0)
    for array in (*inputs.values(), batch.labels):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, labels = unpack(batch, CPU)
    assert after.hidden.tolist() == [[3, 0], [4, 5]]
    assert (after.mask is not None) == mask
    assert labels.tolist() == [0, 1]
    after.hidden.fill_(9)
    assert inputs["tokens"].tolist() == [[3, 0], [4, 5]]


def test_image_batches_of_the_data_process() -> None:
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    after, _ = unpack(Batch({"images": images}, np.array([0, 1]), 0), CPU)
    assert torch.equal(after.hidden, torch.arange(8.0).reshape(2, 1, 2, 2))
    assert after.mask is None
