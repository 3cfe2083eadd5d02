"""The journal of a run's membership changes: one small file each, written before the change.

    changes/00000123-ID.json      a stage joins or leaves before step 123

A run that goes back to a checkpoint makes the same changes again at the same steps.
"""

from __future__ import annotations

import re
from typing import Any

from scpl_ray.errors import CheckpointError
from scpl_ray.manifest import Damaged, read_tree, sha256
from scpl_ray.run_manifest import checksum, signed
from scpl_ray.storage import Storage, reason

KIND, FORMAT, FOLDER = "scpl-ray change", 1, "changes"
CHECKSUM = "change_sha256"


class Journal:
    """Changes that a run has made or is about to make.

    Args:
        storage: where its folder is.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._order: int | None = None

    def note(self, change: dict[str, Any]) -> None:
        """Writes a change down; a second one of the same id replaces the first.

        Args:
            change: plain JSON with at least `step` (int) and `id` (str).
        """
        step, key = change["step"], change["id"]
        if type(step) is not int or step < 0 or type(key) is not str:
            raise ValueError(f"a change needs a step (int) and an id (str): {change!r}")
        if self._order is None:
            self._order = max((entry[1] for entry in self._entries()), default=0)
        self._order += 1
        tree = {"kind": KIND, "format": FORMAT, "order": self._order, "change": change}
        name = f"{step:08d}-{_file_key(key)}.json"
        self.storage.write(f"{FOLDER}/{name}", signed(tree, CHECKSUM))
        self._remove(key, but=name)

    def forget(self, key: str) -> None:
        """Removes a change that will not come about; nothing happens if it is not there."""
        self._remove(key)

    def since(self, step: int) -> list[dict[str, Any]]:
        """All changes from a step on, by step and then in the order noted.

        Raises:
            CheckpointError: an entry is damaged; without it the run would be another.
        """
        return [change for at, _, change in sorted(self._entries(), key=_order) if at >= step]

    def _remove(self, key: str, but: str = "") -> None:
        ending = f"{_file_key(key)}.json"
        for name in self.storage.names(FOLDER):
            if name.partition("-")[2] == ending and name != but:
                self.storage.remove(f"{FOLDER}/{name}")

    def _entries(self) -> list[tuple[int, int, dict[str, Any]]]:
        try:
            return [self._read(f"{FOLDER}/{name}") for name in self.storage.names(FOLDER)]
        except Damaged as error:
            raise CheckpointError(
                f"{self.storage.where}/{error}; without this change of the stages the run would "
                "go on as another. Restore the file from a copy, or train from the start with "
                "--overwrite"
            ) from error

    def _read(self, file: str) -> tuple[int, int, dict[str, Any]]:
        try:
            tree = read_tree(self.storage.read(file), file)
        except OSError as error:
            raise Damaged(file, f"cannot be read: {reason(error)}") from error
        said = tree.pop(CHECKSUM, None)
        if (tree.get("kind"), tree.get("format")) != (KIND, FORMAT):
            raise Damaged(file, f"not a {KIND} of this version")
        if said != checksum(tree):
            raise Damaged(file, "its checksum differs from its content: it is damaged")
        change = tree["change"]
        if file != f"{FOLDER}/{change['step']:08d}-{_file_key(change['id'])}.json":
            raise Damaged(file, f"it is of step {change['step']} and id {change['id']!r}: renamed")
        return change["step"], tree["order"], change


def _order(entry: tuple[int, int, dict[str, Any]]) -> tuple[int, int]:
    return entry[:2]


def _file_key(key: str) -> str:
    """A file name for an id, another one for another id."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", key)[:60]
    return plain if plain == key else f"{plain}-{sha256(key.encode())[:12]}"
