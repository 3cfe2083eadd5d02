"""Checkpoints on S3: a real server (moto) behind pyarrow's real client."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSystem
from pytest import MonkeyPatch

from scpl_ray.errors import CheckpointError, ConfigError
from scpl_ray.run_checkpoints import Checkpoints
from scpl_ray.storage import Storage
from tests.damage import saved
from tests.unit.test_run_checkpoints import same

BUCKET = "checkpoints"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    uri = f"s3://k:s@{BUCKET}?endpoint_override=http://{host}:{port}&allow_bucket_creation=true"
    files, path = FileSystem.from_uri(uri + "&scheme=http")
    files.create_dir(path)
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def uri(server: str, folder: str, bucket: str = BUCKET) -> str:
    return f"s3://{bucket}/{folder}?endpoint_override=http://{server}&scheme=http"


def test_files(server: str) -> None:
    storage = Storage(uri(server, "files"), "run")
    storage.check()
    assert storage.names() == storage.names("a") == []
    storage.remove("a")
    storage.write("a/b/one", bytes(11_000_000))  # more than one part of an upload
    storage.write("a/two", b"")
    storage.write("a/two", b"2")
    assert (storage.names(), storage.names("a")) == (["a"], ["b", "two"])
    assert (len(storage.read("a/b/one")), storage.read("a/two")) == (11_000_000, b"2")
    assert storage.exists("a") and storage.exists("a/two") and not storage.exists("a/three")
    with pytest.raises(FileNotFoundError):
        storage.read("a/three")
    storage.remove("a")
    assert storage.names() == []


def test_checkpoints(server: str) -> None:
    said: list[str] = []
    storage = Storage(uri(server, "jobs"), "run")
    checkpoints = Checkpoints(storage, 2, said.append, "run")
    assert checkpoints.newest() is None
    for step in (10, 20, 30):
        checkpoints.write(saved(step))
    assert storage.names() == ["step-00000020", "step-00000030"]
    assert same(checkpoints.newest(), saved(30))
    storage.write("step-00000030/stage-2.safetensors", b"damaged")
    assert same(checkpoints.newest(), saved(20))
    assert "step-00000030/stage-2.safetensors: 7 bytes" in said[0]
    storage.remove("step-00000030/manifest.json")
    storage.remove("step-00000020/stage-1.safetensors")
    with pytest.raises(CheckpointError, match="step-00000020/stage-1.safetensors: cannot be read"):
        checkpoints.newest()
    checkpoints.write(saved(40))
    assert storage.names() == ["step-00000020", "step-00000040"]
    checkpoints.clear()
    assert storage.names() == []


def test_journal(server: str) -> None:
    checkpoints = Checkpoints(Storage(uri(server, "journal")), 2, print)
    for step, key in ((5, "b"), (5, "a"), (2, "c/d")):
        checkpoints.note_change({"step": step, "id": key})
    assert [c["id"] for c in checkpoints.changes_from(0)] == ["c/d", "b", "a"]
    checkpoints.forget_change("b")
    assert [c["id"] for c in checkpoints.changes_from(3)] == ["a"]
    checkpoints.clear()
    assert checkpoints.changes_from(0) == []


def test_the_endpoint_of_the_environment(server: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    storage = Storage(f"s3://{BUCKET}/environment")
    storage.check()
    storage.write("x", b"x")
    assert Storage(uri(server, "environment")).read("x") == b"x"


def test_no_such_bucket(server: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        Storage(uri(server, "x", "no-such-bucket")).check()
    assert time.monotonic() - start < 5
    text = str(caught.value)
    assert text.startswith("fault_tolerance.storage: 's3://no-such-bucket/x?")
    assert "there is no such bucket" in text and "make it, or correct its name" in text


def test_an_endpoint_that_refuses() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"it cannot be reached \(.*look at the address"):
        Storage(uri(f"127.0.0.1:{port}", "x")).check()
    assert time.monotonic() - start < 15


def test_an_endpoint_that_is_silent() -> None:
    """Not even the end of the process waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = (
            "import sys\nfrom scpl_ray import storage\nstorage.ANSWER_WITHIN_S = 1.0\n"
            "try:\n    storage.Storage(sys.argv[1]).check()\n"
            "except storage.ConfigError as error:\n    print(error)\n"
        )
        where = uri(f"127.0.0.1:{silent.getsockname()[1]}", "x")
        done = subprocess.run(
            [sys.executable, "-c", code, where], capture_output=True, text=True, timeout=60
        )
    assert "no answer within 1 seconds; look at the address" in done.stdout, done.stderr


# Its own process, because moto counts requests without a check of credentials for all servers.
STRICT = """
import os, sys
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"
from moto.server import ThreadedMotoServer
from scpl_ray.storage import ConfigError, Storage
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
try:
    Storage(f"s3://{sys.argv[1]}@bucket/x?endpoint_override=http://{host}:{port}&scheme=http").check()
except ConfigError as error:
    print(error)
server.stop()
"""


def test_wrong_credentials() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRICT, "somebody:hushhush"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "access is refused" in done.stdout, done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stdout and "hushhush" not in done.stdout
