from __future__ import annotations

import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest
import torch

from scpl_ray.data.batch import Batch
from scpl_ray.engine.transport import (
    ArrayPacket,
    ObjectStore,
    Staging,
    Transport,
    missing,
    open_transport,
)
from scpl_ray.engine.transport_choice import Wish, choose, settle
from scpl_ray.errors import ConfigError
from scpl_ray.models import Activation
from tests.unit.tools import config

CPU = torch.device("cpu")
LABELS = torch.tensor([1, 0, 1])
MASK = torch.tensor([[True, False], [True, True], [False, False]])


def staged() -> ObjectStore:
    """The way to and from a GPU, with ordinary memory in place of page-locked."""
    return ObjectStore(CPU, Staging(CPU, ordinary, lambda device: None))


def ordinary(shape: torch.Size, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
    assert pin_memory
    return torch.empty(shape, dtype=dtype)


@pytest.fixture(params=["plain", "staged"])
def store(request: pytest.FixtureRequest) -> Transport:
    return ObjectStore(CPU) if request.param == "plain" else staged()


def activation(dtype: torch.dtype, mask: bool, states: int) -> Activation:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 2, 4, generator=draw).to(dtype)
    return Activation(
        hidden,
        MASK.clone() if mask else None,
        tuple(torch.randn(2, 3, 4, generator=draw).to(dtype) for _ in range(states)),
    )


def arrays_of(store: Transport, activation: Activation) -> ArrayPacket:
    packet = store.pack(activation, LABELS)
    assert isinstance(packet, ArrayPacket)
    return packet


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("states", [0, 2])
def test_roundtrip(store: Transport, dtype: torch.dtype, mask: bool, states: int) -> None:
    before = activation(dtype, mask, states)
    packet = pickle.loads(pickle.dumps(store.pack(before, LABELS)))
    after, labels = store.unpack(packet)
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


def test_bfloat16_keeps_every_bit(store: Transport) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).reshape(-1, 1)
    after, _ = store.unpack(store.pack(Activation(bits.view(torch.bfloat16)), LABELS))
    assert torch.equal(after.hidden.view(torch.int16), bits)


def test_token_ids_and_strided_tensors(store: Transport) -> None:
    ids = torch.arange(6).reshape(2, 3).T
    after, _ = store.unpack(store.pack(Activation(ids), LABELS))
    assert after.hidden.dtype == torch.int64
    assert torch.equal(after.hidden, ids)


def test_a_gradient_does_not_travel(store: Transport) -> None:
    hidden = torch.ones(3, 2, requires_grad=True) * 2
    after, _ = store.unpack(store.pack(Activation(hidden), LABELS))
    assert not after.hidden.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpack_copies(store: Transport, dtype: torch.dtype) -> None:
    packet = arrays_of(store, activation(dtype, True, 2))
    kept = [a.copy() for a in packet.arrays]
    after, labels = store.unpack(packet)
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
def test_read_only_arrays_are_taken_without_warnings(store: Transport, dtype: torch.dtype) -> None:
    before = activation(dtype, True, 2)
    packet = arrays_of(store, before)
    arrays = tuple(a.copy() for a in packet.arrays)
    frozen = ArrayPacket(arrays, packet.dtypes, True, packet.labels.copy())
    for array in (*frozen.arrays, frozen.labels):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, labels = store.unpack(frozen)
    after.hidden.add_(1)
    labels.add_(1)
    assert torch.equal(after.hidden, before.hidden + 1)


@pytest.mark.parametrize("mask", [True, False])
def test_text_batches_of_the_data_process(store: Transport, mask: bool) -> None:
    inputs = {"tokens": np.array([[3, 0], [4, 5]])}
    if mask:
        inputs["mask"] = inputs["tokens"] != 0
    batch = Batch(inputs, np.array([0, 1]), 0)
    for array in (*inputs.values(), batch.labels):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, labels = store.unpack(batch)
    assert after.hidden.tolist() == [[3, 0], [4, 5]]
    assert (after.mask is not None) == mask
    assert labels.tolist() == [0, 1]
    after.hidden.fill_(9)
    assert inputs["tokens"].tolist() == [[3, 0], [4, 5]]


def test_image_batches_of_the_data_process(store: Transport) -> None:
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    after, _ = store.unpack(Batch({"images": images}, np.array([0, 1]), 0))
    assert torch.equal(after.hidden, torch.arange(8.0).reshape(2, 1, 2, 2))
    assert after.mask is None


# --- on the CPU: no copy; to and from a GPU: buffers -----------------------------------------------


def test_on_the_cpu_nothing_is_copied_to_pack() -> None:
    before = activation(torch.float32, True, 1)
    packet = arrays_of(ObjectStore(CPU), before)
    before.hidden.fill_(7)
    assert (packet.arrays[0] == 7).all(), "the array is the tensor's memory"
    assert packet.nbytes == sum(a.nbytes for a in packet.arrays)


def test_the_arrays_are_handed_out_after_one_wait() -> None:
    events: list[str] = []

    class Recorded(torch.Tensor):
        def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            assert non_blocking
            events.append("copy")
            return super().copy_(source)

    def empty(shape: torch.Size, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype).as_subclass(Recorded)

    store = ObjectStore(CPU, Staging(CPU, empty, lambda device: events.append("wait")))
    store.pack(activation(torch.float32, True, 1), LABELS)
    assert events == ["copy"] * 4 + ["wait"], "hidden, mask, state, labels"


def test_many_packets_of_one_call_share_no_buffer() -> None:
    """`StageActor.many` returns a list of packets, all made before Ray takes in any of them."""
    store, hidden = staged(), torch.zeros(3, 2)
    packets = []
    for value in range(20):
        hidden.fill_(value)  # as a GPU writes the next output into the same memory
        packets.append(arrays_of(store, Activation(hidden)))
    sent = pickle.loads(pickle.dumps(packets))
    assert [packet.arrays[0][0, 0] for packet in sent] == list(range(20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_lives_as_long_as_its_array_is_being_sent(dtype: torch.dtype) -> None:
    """Ray writes out of the array itself, when the packet may be gone (pickle's protocol 5)."""
    freed: list[int] = []

    def empty(shape: torch.Size, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        # Memory that says when torch lets go of it, as its cache of page-locked memory is told.
        raw = np.empty(int(np.prod(shape)) * dtype.itemsize, np.uint8)
        weakref.finalize(raw, freed.append, 1)
        return torch.from_numpy(raw).view(dtype).view(shape)

    store = ObjectStore(CPU, Staging(CPU, empty, lambda device: None))
    buffers: list[pickle.PickleBuffer] = []
    packet = arrays_of(store, Activation(torch.ones(3, 2, dtype=dtype)))
    pickle.dumps(packet, protocol=5, buffer_callback=buffers.append)
    del packet
    gc.collect()
    assert len(buffers) == 2
    assert freed == []
    buffers.clear()
    gc.collect()
    assert freed == [1, 1]


# --- which one -------------------------------------------------------------------------------------


def no_nixl() -> str:
    return "ModuleNotFoundError: No module named 'nixl'"


def test_auto_on_the_cpu_is_the_object_store() -> None:
    free = config(fault_tolerance__enabled=False)
    for asked in (config(), free):
        wish = choose(asked, "cpu", lambda: pytest.fail("nobody asks whether nixl is there"))
        assert wish == Wish("object_store", "the stages are on CPU")
    assert settle(wish, {1: "object_store", 2: "object_store"}) == (
        "object_store",
        "activations go through the object store (the stages are on CPU)",
    )


def test_auto_on_gpus_is_direct_where_nothing_is_replayed_and_all_have_it() -> None:
    kept = choose(config(), "cuda", lambda: "")
    assert kept.transport == "object_store"
    assert "fault_tolerance" in kept.why
    free = config(fault_tolerance__enabled=False)
    without = choose(free, "cuda", no_nixl)
    assert without.transport == "object_store"
    assert "No module named 'nixl'" in settle(without, {1: "object_store"})[1]
    wish = choose(free, "cuda", lambda: "")
    assert wish == Wish("auto")
    assert settle(wish, {1: "nixl", 2: "nixl"})[0] == "nixl"
    transport, line = settle(wish, {1: "nixl", 2: "object_store", 3: "object_store"})
    assert transport == "object_store"
    assert "stages 2, 3" in line


def test_as_configured() -> None:
    store = config(pipeline__transport="object_store", fault_tolerance__enabled=False)
    assert choose(store, "cuda", lambda: "") == Wish("object_store")
    assert settle(Wish("object_store"), {1: "object_store"}) == (
        "object_store",
        "activations go through the object store",
    )
    direct = config(pipeline__transport="nixl", fault_tolerance__enabled=False)
    for device in ("cpu", "cuda"):
        assert choose(direct, device, lambda: "") == Wish("nixl")
    assert settle(Wish("nixl"), {1: "nixl"})[0] == "nixl"


def test_nixl_that_is_not_there_is_told() -> None:
    direct = config(pipeline__transport="nixl", fault_tolerance__enabled=False)
    with pytest.raises(ConfigError) as caught:
        choose(direct, "cpu", no_nixl)
    for words in ("pipeline.transport: 'nixl'", "No module named 'nixl'", "pip install nixl"):
        assert words in str(caught.value)
    assert caught.value.exit_code == 2
    again = pickle.loads(pickle.dumps(missing("stage 2", "why")))
    assert "stage 2" in str(again), "it comes from a stage's process"


def test_nixl_and_a_replay_exclude_each_other() -> None:
    with pytest.raises(ConfigError) as caught:
        config(pipeline__transport="nixl")
    assert "pipeline.transport: 'nixl'" in str(caught.value)
    assert "fault_tolerance.enabled" in str(caught.value)
    with pytest.raises(ConfigError, match="auto, object_store, nixl"):
        config(pipeline__transport="nccl")


def test_a_process_without_nixl(monkeypatch: pytest.MonkeyPatch) -> None:
    from scpl_ray.engine import direct

    monkeypatch.setattr(direct, "lacking", no_nixl)
    assert open_transport("object_store", CPU, "stage 1").name == "object_store"
    assert open_transport("auto", CPU, "stage 1").name == "object_store"
    with pytest.raises(ConfigError, match="stage 1 lacks"):
        open_transport("nixl", CPU, "stage 1")
    monkeypatch.setattr(direct, "lacking", lambda: "")
    assert open_transport("auto", CPU, "stage 1").name == "nixl"
