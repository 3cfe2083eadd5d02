from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from scpl_ray.checkpoint_writer import CheckpointWriter


def finish(writer: CheckpointWriter) -> None:
    limit = time.monotonic() + 5
    while writer.busy:
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_one_write_at_a_time() -> None:
    said: list[str] = []
    go, done = threading.Event(), list[int]()
    writer = CheckpointWriter(said.append)
    assert not writer.busy and writer.last_step is None

    def slow() -> None:
        go.wait(5)
        done.append(10)

    assert writer.offer(10, slow)
    assert writer.busy
    assert not writer.offer(20, lambda: done.append(20))
    time.sleep(0.05)
    go.set()
    finish(writer)
    assert (writer.last_step, done, writer.failures) == (10, [10], 0)
    assert writer.seconds >= 0.05
    assert writer.offer(30, lambda: done.append(30))
    assert writer.close(5)
    assert (writer.last_step, done, said) == (30, [10, 30], [])
    assert not writer.offer(40, lambda: done.append(40))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (OSError(errno.EIO, "x"), "Input/output error"),
        (PermissionError(errno.EACCES, "x"), "Permission denied"),
        (
            OSError("When uploading: AWS Error SLOW_DOWN\nmore"),
            "When uploading: AWS Error SLOW_DOWN",
        ),
        (RuntimeError("stage 2 died"), "RuntimeError: stage 2 died"),
        (MemoryError(), "MemoryError: MemoryError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_each_failure_is_said(error: BaseException, text: str) -> None:
    said: list[str] = []
    writer = CheckpointWriter(said.append)

    def fail() -> None:
        raise error

    assert writer.offer(10, fail)
    finish(writer)
    assert writer.offer(20, lambda: None)
    finish(writer)
    for step in (30, 40):
        assert writer.offer(step, fail)
        finish(writer)
    start = f"was not written: {text}; training goes on; "
    assert said == [
        f"the checkpoint of step 10 {start}there is no complete checkpoint yet",
        f"the checkpoint of step 30 {start}the last complete checkpoint is step 20",
        f"the checkpoint of step 40 {start}the last complete checkpoint is step 20",
    ]
    assert (writer.failures, writer.last_step) == (3, 20)


def test_a_device_that_is_full() -> None:
    said: list[str] = []
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    writer = CheckpointWriter(said.append, last_step=7)
    writer.offer(10, lambda: Path("/dev/full").write_bytes(b"x") and None)
    assert writer.close(5)
    assert said == [
        "the checkpoint of step 10 was not written: the disk is full; training goes on; the last "
        "complete checkpoint is step 7"
    ]


def test_close_does_not_wait_for_ever() -> None:
    said: list[str] = []
    go = threading.Event()
    writer = CheckpointWriter(said.append, last_step=5)
    writer.offer(10, lambda: go.wait(5) and None)
    assert not writer.close(0.05)
    assert said == [
        "the checkpoint of step 10 was not written within 0.05 more seconds; the last complete "
        "checkpoint is step 5"
    ]
    go.set()
    assert writer.close(5)
