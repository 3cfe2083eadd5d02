"""A folder for checkpoints: on a disk, a shared file system, or an object store."""

from __future__ import annotations

import errno
import os
import re
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from scpl_ray.errors import ConfigError, nearest
from scpl_ray.run_folder import write_atomically

SCHEMES = ("file", "s3", "gs", "hdfs")
ALLOWED = "allowed: a folder, or a URI file:///, s3://, gs:// or hdfs://"

# A Hadoop client tries a silent name node for minutes.
ANSWER_WITHIN_S = 20.0
# Without it, Google's client tries again for 15 minutes.
GS_RETRY_S = 10

_IN_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system lets it be",
}

# What a client's message tells, what that is in words, and what to do: the first that fits.
_CAUSES = (
    (
        r"NO_SUCH_BUCKET|bucket does not exist|Bucket '.*' not found|NOT_FOUND",
        "there is no such bucket",
        "make it, or correct its name",
    ),
    (
        r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|ACCESS_DENIED|INVALID_CLIENT_TOKEN"
        r"|EXPIRED|OAuth2|UNAUTHENTICATED|PERMISSION_DENIED|[Cc]redential",
        "access is refused",
        "give credentials that may write there: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for "
        "s3://, GOOGLE_APPLICATION_CREDENTIALS for gs://",
    ),
    (
        r"libjvm|libhdfs|CLASSPATH",
        "hdfs:// needs Java and Hadoop's libhdfs on this machine",
        "install them and set JAVA_HOME and HADOOP_HOME, or choose another storage",
    ),
    (
        r"NETWORK_CONNECTION|UNAVAILABLE|[Cc]ould not (connect|resolve)|[Tt]imeout|[Cc]onnect",
        "it cannot be reached",
        "look at the address (of another endpoint than the cloud's own: "
        "?endpoint_override=http://HOST:PORT, or AWS_ENDPOINT_URL) and at the network",
    ),
)

T = TypeVar("T")


def reason(error: BaseException) -> str:
    """Words why reading or writing failed, in one line."""
    number = getattr(error, "errno", None)
    if number in _IN_WORDS:
        return _IN_WORDS[number]
    if number:
        return os.strerror(number)
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class Storage:
    """Small named files in a folder, written whole or not at all.

    Scenario: the checkpoints of a running job, on `s3://bucket/jobs` so that they outlive the
    machine. Names may have folders in them (`step-00000120/manifest.json`); folders come into
    being with what is in them.

    Args:
        where: `fault_tolerance.storage`: a folder (a relative one is taken from the current
            folder), or a URI as pyarrow.fs reads it, with its options as a query.
        folder: a folder in there: the run's own.

    Attributes:
        where: for messages: absolute, without the secrets that a URI may carry.

    Raises:
        ConfigError: `where` cannot be a storage.
    """

    def __init__(self, where: str, folder: str = "") -> None:
        self._local: Path | None = None
        self.where = where
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", where)
        if scheme is None:
            if not where.strip():
                raise self._refusal("it is empty", ALLOWED)
            root = str(Path(where).expanduser().absolute())
            self.where, self._fs = root, LocalFileSystem()
        else:
            self._check_scheme(scheme[1].lower(), where)
            parts = urlsplit(where)
            if "@" in parts.netloc:
                hidden = "***@" + parts.netloc.rpartition("@")[2]
                self.where = parts._replace(netloc=hidden).geturl()
            uri = where
            if parts.scheme == "gs" and "retry_limit_seconds" not in parts.query:
                more = f"{parts.query}&" if parts.query else ""
                uri = parts._replace(query=f"{more}retry_limit_seconds={GS_RETRY_S}").geturl()
            self._fs, root = self._tell(lambda: _open(uri))
        self._root = "/".join(part for part in (root.rstrip("/"), folder.strip("/")) if part)
        if isinstance(self._fs, LocalFileSystem):
            self._local = Path(self._root or "/")
        if folder:
            address, question, query = self.where.partition("?")
            self.where = f"{address.rstrip('/')}/{folder.strip('/')}{question}{query}"

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, with the folders that it needs.

        Raises:
            OSError: it was not written; an older file of that name is still there.
        """
        if self._local is None:
            # An object appears when its upload is closed, whole.
            with self._fs.open_output_stream(self._path(name)) as stream:
                stream.write(content)
            return
        path = self._local / name
        new = [f for f in (path.parent, *path.parent.parents) if not f.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(path, content)
        except OSError:
            path.with_name(f".{path.name}.tmp").unlink(missing_ok=True)
            raise
        # After a power cut a file is found only if its folder's entry was written too.
        for folder in (path.parent, *(f.parent for f in new)):
            _sync_folder(folder)

    def read(self, name: str) -> bytes:
        """Reads a file.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        if self._local is not None:
            return (self._local / name).read_bytes()
        with self._fs.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def names(self, folder: str = "") -> list[str]:
        """Names of what is directly in a folder, sorted; empty if the folder is missing."""
        found = self._fs.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        names = sorted(info.base_name for info in found)
        return [n for n in names if not (n.startswith(".") and n.endswith(".tmp"))]

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it; nothing happens if it is missing."""
        path = self._path(name)
        kind = self._fs.get_file_info([path])[0].type
        try:
            if kind == FileType.Directory:
                self._fs.delete_dir(path)
            elif kind != FileType.NotFound:
                self._fs.delete_file(path)
        except FileNotFoundError:
            return

    def exists(self, name: str) -> bool:
        """Whether there is a file or a folder of that name."""
        return self._fs.get_file_info([self._path(name)])[0].type != FileType.NotFound

    def check(self) -> None:
        """Writes, reads and removes a small file; ends within seconds.

        Raises:
            ConfigError: that failed; says why and what to do.
        """
        name = f"probe-{uuid.uuid4().hex}"

        def probe() -> None:
            self.write(name, b"scpl-ray")
            self.read(name)
            self.remove(name)

        self._tell(probe)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root or "/"

    def _check_scheme(self, scheme: str, where: str) -> None:
        if scheme not in SCHEMES:
            raise self._refusal(
                f"unknown scheme {scheme + '://'!r}", f"{ALLOWED}.{nearest(scheme, SCHEMES)}"
            )
        if not where[len(scheme) :].startswith("://"):
            raise self._refusal("a slash is missing", f"write {scheme}://")

    def _refusal(self, what: str, advice: str) -> ConfigError:
        return ConfigError(f"fault_tolerance.storage: {self.where!r}: {what}; {advice}")

    def _tell(self, act: Callable[[], T]) -> T:
        """Does something that asks the storage; words its failure, and its silence."""
        try:
            return _within(ANSWER_WITHIN_S, act)
        except TimeoutError:
            raise self._refusal(
                f"no answer within {ANSWER_WITHIN_S:g} seconds", _CAUSES[-1][2]
            ) from None
        except (OSError, ArrowException) as error:
            text = str(error)
            if self._local is not None:
                raise self._refusal(
                    f"cannot be written: {reason(error)}",
                    f"choose a folder that you may write to, with space in it ({ALLOWED})",
                ) from error
            for pattern, what, advice in _CAUSES:
                if isinstance(error, OSError) and re.search(pattern, text):
                    raise self._refusal(f"{what} ({reason(error)})", advice) from error
            raise self._refusal(reason(error), ALLOWED) from error


def _open(uri: str) -> tuple[FileSystem, str]:
    """Opens a URI, and limits how often an S3 client tries again.

    By itself it tries a silent endpoint for 100 seconds, and the process cannot end before. A
    URI has no option for that, so the client is made anew from the options that it has.
    """
    files, path = FileSystem.from_uri(uri)
    if files.type_name == "s3":
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        _, (options,) = files.__reduce__()
        files = S3FileSystem(
            **options
            | {"connect_timeout": 3, "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=3)}
        )
    return files, path


def _within(seconds: float, act: Callable[[], T]) -> T:
    """Runs something that has no time limit of its own; leaves it behind when it is late."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _sync_folder(folder: Path) -> None:
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
