"""Reaching a running job from another process: find it, read it, tell it something.

A process that is attached to a Ray that ends is ended by Ray a minute later; so nothing here waits
on Ray without a limit, and the job's record on this machine is asked first.
"""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from scpl_ray.elastic.request import ENDED
from scpl_ray.engine.cluster import attach
from scpl_ray.errors import JobError
from scpl_ray.jobs.mailbox import NAMESPACE, PREFIX
from scpl_ray.jobs.record import JobRecord, choose, ended_line, read_records, user_name

_ANSWER_S = 5.0
_RESEND_S = 3.0
_LOOK_S = 0.2
_STARTING_S = 60.0


def cluster_jobs(address: str) -> list[JobRecord]:
    """The jobs that run on a cluster, whoever started them.

    Raises:
        ResourceError: the cluster cannot be reached.
    """
    _attach(address)
    names = [f.name for f in dataclasses.fields(JobRecord)]
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] != NAMESPACE or not actor["name"].startswith(PREFIX):
            continue
        seen = _ask(_find(actor["name"]))
        if seen is not None:
            status = seen["status"]
            keys = ("epoch", "epochs", "step", "steps")
            progress = {k: status[k] for k in keys if k in status}
            card = {k: v for k, v in seen["card"].items() if k in names}
            found.append(JobRecord(**(card | {"progress": progress, "address": address})))
    return sorted(found, key=lambda r: r.started_at)


def known_jobs(address: str | None) -> list[JobRecord]:
    """The jobs of this machine, and those of the cluster at `address` (or RAY_ADDRESS)."""
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        return read_records()
    there = cluster_jobs(address)
    ids = {record.id for record in there}
    return sorted(
        [r for r in read_records() if r.id not in ids] + there, key=lambda r: r.started_at
    )


def find(job: str | None, address: str | None) -> JobRecord:
    """Finds a running job by id or name; None: the only one.

    Raises:
        JobError: there is none, more than one, or it has ended.
    """
    if address is not None:
        return choose(job, cluster_jobs(address), f"at {address}")
    records = read_records()
    if os.environ.get("RAY_ADDRESS") and not [
        r for r in records if r.running and job in (None, r.id, r.name)
    ]:
        records = known_jobs(None)
    return choose(job, records)


@dataclass
class Reached:
    """A running job that this process can talk to.

    Attributes:
        record: who it is.
        mailbox: its handle. Kept, because to look an actor up where Ray has ended takes a minute;
            asking it takes as long as one likes.
    """

    record: JobRecord
    mailbox: Any = None

    def read(self) -> dict[str, Any]:
        """What the job last said; see `Board.view`.

        Raises:
            JobError: it has ended, or does not answer.
        """
        deadline = time.monotonic() + 3 * _ANSWER_S
        while time.monotonic() < deadline:
            self._check_alive()
            seen = _ask(self._mailbox())
            if seen is not None and seen["status"]:
                return {**seen["status"], "age_s": seen["age_s"]}
            time.sleep(_LOOK_S)
        self._check_alive()
        raise JobError(
            f"job {self.record.id!r} does not answer (Ray at {self.record.address}, driver "
            f"{self.record.pid} on {self.record.host}); if its process hangs, end it there"
        )

    def _mailbox(self) -> Any:
        if self.mailbox is None:
            self.mailbox = _find(PREFIX + self.record.id)
        return self.mailbox

    def _check_alive(self) -> None:
        for record in read_records():
            if record.id == self.record.id and not record.running:
                raise JobError(ended_line(record))

    def send(self, command: dict[str, Any]) -> None:
        """Leaves a command in the job's mailbox.

        Raises:
            JobError: the job has ended or cannot be reached.
        """
        self._check_alive()
        mailbox = self._mailbox()
        try:
            if mailbox is not None:
                ray.get(mailbox.post.remote(command), timeout=_ANSWER_S)
        except RayError:
            self._check_alive()  # else it restarts: whoever waits for the answer sends again

    def ask(
        self, commands: list[dict[str, Any]], limit_s: float | None
    ) -> Iterator[dict[str, Any]]:
        """Sends commands and yields each change of their state until all have ended.

        Args:
            commands: as `new_command` makes them.
            limit_s: seconds after which this gives up waiting; the commands stand.

        Raises:
            JobError: the job has ended, or does not answer in time.
        """
        ids = [c["id"] for c in commands]
        shown: dict[str, tuple[str, str]] = {}
        begun, sent = time.monotonic(), 0.0
        while True:
            views = {v["id"]: v for v in self.read()["changes"] if v["id"] in ids}
            missing = [c for c in commands if c["id"] not in views]
            if missing and time.monotonic() - sent > _RESEND_S:
                for command in missing:
                    self.send(command)
                sent = time.monotonic()
            for key, view in views.items():
                if shown.get(key) != (view["state"], view["text"]):
                    shown[key] = (view["state"], view["text"])
                    yield view
            if not missing and all(v["state"] in ENDED for v in views.values()):
                return
            if limit_s is not None and time.monotonic() - begun > limit_s:
                raise JobError(
                    f"job {self.record.name!r} has not said how it went within {limit_s:g} s; the "
                    "request stands: scpl-ray status shows it"
                )
            time.sleep(_LOOK_S)


def reach(job: str | None, address: str | None) -> Reached:
    """Finds a running job and attaches to its Ray.

    Raises:
        JobError: it cannot be found or takes no commands.
        ResourceError: its Ray cannot be reached.
    """
    record = find(job, address)
    if record.engine == "local":
        raise JobError(
            f"job {record.name!r} runs on the local engine, in one process (pid {record.pid}), "
            "which takes no commands; Ctrl-C there ends it"
        )
    record = _with_address(record)
    _attach(record.address)
    return Reached(record)


def _with_address(record: JobRecord) -> JobRecord:
    """Waits until a job that has just begun has its Ray."""
    deadline = time.monotonic() + _STARTING_S
    while not record.address and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        again = [r for r in read_records() if r.id == record.id]
        record = choose(record.id, again)
    if not record.address:
        raise JobError(f"job {record.id!r} has not started its Ray within {_STARTING_S:g} s")
    return record


def new_command(kind: str, **arguments: Any) -> dict[str, Any]:
    """A command with an id, by which it can be sent twice and is done once."""
    return {"id": uuid.uuid4().hex[:8], "kind": kind, "user": user_name(), **arguments}


def wait_ended(record: JobRecord, gone: Callable[[], bool], limit_s: float) -> JobRecord | None:
    """Waits until a job has ended; returns its last record if it is of this machine."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        mine = [r for r in read_records() if r.id == record.id]
        if mine and not mine[0].running:
            return mine[0]
        if not mine and gone():
            return None
        time.sleep(_LOOK_S)
    raise JobError(f"job {record.name!r} has not ended within {limit_s:g} s; it is still stopping")


def mailbox_gone(record: JobRecord) -> bool:
    """Whether the job's mailbox is no more."""
    return _find(PREFIX + record.id) is None


def _attach(address: str) -> None:
    if not ray.is_initialized():
        import logging

        attach(address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)


def _find(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except (ValueError, RayError):
        return None


def _ask(mailbox: Any) -> dict[str, Any] | None:
    if mailbox is None:
        return None
    try:
        seen: Any = ray.get(mailbox.read.remote(), timeout=_ANSWER_S)
    except RayError:
        return None
    return dict(seen)
