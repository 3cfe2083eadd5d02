from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest import MonkeyPatch

from scpl_ray import storage as module
from scpl_ray.errors import ConfigError
from scpl_ray.storage import Storage, reason


def test_write_read_names_remove(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "not" / "yet"))
    assert storage.names() == storage.names("a") == []
    storage.remove("a")
    storage.remove("a/b")
    assert not storage.exists("a")
    storage.write("a/b/one", b"1")
    storage.write("a/two", b"")
    storage.write("a/two", b"2")
    assert (storage.names(), storage.names("a"), storage.names("a/b")) == (
        ["a"],
        ["b", "two"],
        ["one"],
    )
    assert (storage.read("a/b/one"), storage.read("a/two")) == (b"1", b"2")
    assert storage.exists("a") and storage.exists("a/two")
    with pytest.raises(FileNotFoundError):
        storage.read("a/three")
    with pytest.raises(OSError):
        storage.read("a/b")
    storage.remove("a/two")
    storage.remove("a/b")
    assert storage.names("a") == []
    storage.check()
    assert storage.names() == ["a"]


def test_where(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    relative = Storage("one", "run")
    monkeypatch.chdir("/")
    relative.write("x", b"x")
    assert relative.where == str(tmp_path / "one" / "run")
    assert (tmp_path / "one" / "run" / "x").read_bytes() == b"x"
    assert Storage("~/a b").where == str(tmp_path / "home" / "a b")
    uri = Storage(f"file://{tmp_path}/a%20b", "c")
    uri.write("x", b"y")
    assert (tmp_path / "a b" / "c" / "x").read_bytes() == b"y"


def test_secrets_are_not_shown() -> None:
    storage = Storage("s3://key:secret@bucket/x?endpoint_override=127.0.0.1:1&scheme=http", "run")
    assert storage.where == ("s3://***@bucket/x/run?endpoint_override=127.0.0.1:1&scheme=http")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write("x", b"old")

    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space") as caught:
        storage.write("x", b"new")
    assert reason(caught.value) == "the disk is full"
    assert storage.read("x") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_real_write_that_the_system_cuts_short(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from scpl_ray.storage import Storage, reason\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    Storage(sys.argv[1]).write('x', bytes(5000))\n"
        "except OSError as error:\n    print(reason(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "the file is larger than this system lets it be"
    assert list(tmp_path.iterdir()) == []


def test_left_over_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".x.tmp").write_bytes(b"half")
    assert Storage(str(tmp_path)).names() == []


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("s4://bucket/x", "unknown scheme 's4://'; allowed: a folder, .* Did you mean 's3'?"),
        ("hdsf://name/x", "Did you mean 'hdfs'?"),
        ("https://host/x", "unknown scheme 'https://'; allowed: a folder, or a URI file:///"),
        ("s3:/bucket/x", "a slash is missing; write s3://"),
        ("file:/tmp/x", "a slash is missing; write file://"),
        ("", "it is empty; allowed: a folder"),
        ("  ", "it is empty"),
        ("s3:///x", "Missing bucket name"),
        ("file://tmp/x", "Unsupported hostname"),
        ("s3://bucket/x?nonsense=1", "Unexpected query parameter in S3 URI: 'nonsense'"),
    ],
)
def test_what_cannot_be_a_storage(where: str, said: str) -> None:
    start = f"^fault_tolerance.storage: {re.escape(repr(where))}: "
    with pytest.raises(ConfigError, match=start + ".*" + said):
        Storage(where)


def test_hdfs_without_java(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(ConfigError, match="fault_tolerance.storage: 'hdfs://127.0.0.1:1/x': "):
        Storage("hdfs://127.0.0.1:1/x")


def test_check_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for where in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(ConfigError, match="cannot be written: (Not a directory|File exists)"):
            Storage(str(where)).check()
    with pytest.raises(ConfigError, match=r"fault_tolerance.storage: '/proc/x'.*choose a folder"):
        Storage("/proc/x").check()


def test_check_names_a_full_disk(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    def full(self: Storage, name: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Storage, "write", full)
    with pytest.raises(ConfigError, match="cannot be written: the disk is full; choose a folder"):
        Storage(str(tmp_path)).check()


def test_check_gives_up_on_a_silent_storage(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(Storage, "write", lambda *_: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"no answer within 0.2 seconds"):
        Storage(str(tmp_path)).check()
    assert time.monotonic() - start < 2
