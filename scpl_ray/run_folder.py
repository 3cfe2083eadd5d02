"""The folder of a run, `runs/NAME/`: never overwritten by another, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from scpl_ray.config import Config, dump_yaml
from scpl_ray.errors import CheckpointError, ConfigError, nearest

CONFIG, SUMMARY, METRICS, CHECKPOINT = "config.yaml", "summary.json", "metrics.jsonl", "checkpoint"
LOG = "log.txt"


class RunFolder:
    """A run's folder, made when the first batch is about to be trained.

    Args:
        config: `output.dir` and `name` are read.
        overwrite: replace a finished or broken run of the same name.
        resume: go on with a run of the same name.

    Raises:
        ConfigError: the name is taken, or the folder is not a run's.
    """

    def __init__(self, config: Config, overwrite: bool = False, resume: bool = False) -> None:
        self.path = Path(config.output.dir) / config.name
        self.config, self.overwrite, self.resume = config, overwrite, resume
        self._made = False
        self.check()

    def check(self) -> None:
        """Refuses a name that is taken."""
        if not (self.path.exists() or self.path.is_symlink()):
            return
        if not (self.overwrite or self.resume):
            raise ConfigError(
                f"name: {self.config.name!r} is taken: {self.path} exists. Choose another with "
                "--name, go on with it by --resume, or replace it with --overwrite"
            )
        if not (self.path / CONFIG).is_file():
            raise ConfigError(
                f"name: {self.path} exists and is not the folder of a run (no {CONFIG} in it), so "
                "--overwrite and --resume leave it alone; choose another --name"
            )

    def make(self) -> None:
        """Makes the folder, after removing the old run if that was asked for."""
        self.check()
        goes_on = self.resume and self.path.exists()
        try:
            if self.path.exists() and not goes_on:
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=goes_on)
        except FileExistsError:
            raise ConfigError(
                f"name: {self.config.name!r} is taken: {self.path} was made by another run just "
                "now. Choose another with --name"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"output.dir: cannot write {self.path}: {error.strerror}; choose a folder that "
                "you may write to"
            ) from error
        self._made = not goes_on
        (self.path / SUMMARY).unlink(missing_ok=True)
        write_atomically(self.path / CONFIG, dump_yaml(self.config).encode())

    def remove(self) -> None:
        """Takes back a folder that this run made and that holds nothing of worth."""
        if self._made:
            shutil.rmtree(self.path, ignore_errors=True)
            self._made = False

    def summary(self) -> dict[str, Any] | None:
        """What summary.json says; None where there is none that can be read."""
        try:
            tree = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return tree if isinstance(tree, dict) else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json."""
        write_atomically(self.path / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def find_run(run: str | Path) -> Path:
    """Finds the folder of a finished run, by path or by its name under `runs/`.

    Raises:
        CheckpointError: there is none; names the nearest.
    """
    path = Path(run)
    for candidate in (path, Path("runs") / path):
        if (candidate / CHECKPOINT / "manifest.json").is_file():
            return candidate
    for candidate in (path, Path("runs") / path):
        if (candidate / CONFIG).is_file():
            raise CheckpointError(
                f"{candidate} is a run without a checkpoint: it did not end. Train it again with "
                "--overwrite"
            )
    raise _no_run(run)


def fingerprint(checkpoint: Path) -> str:
    """Digest of a checkpoint: of its manifest, which holds those of all its files."""
    return hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()


def find_begun(run: str | Path) -> Path:
    """Finds the folder of a run, finished or not, by path or by its name under `runs/`.

    Raises:
        CheckpointError: there is none; names the nearest.
    """
    for candidate in (Path(run), Path("runs") / run):
        if (candidate / CONFIG).is_file():
            return candidate
    raise _no_run(run)


def _no_run(run: str | Path) -> CheckpointError:
    path = Path(run)
    parent = path.parent if path.parent.is_dir() and path.parent != Path() else Path("runs")
    names = [p.parent.name for p in sorted(parent.glob(f"*/{CONFIG}"))]
    there = f"runs in {parent}: {', '.join(names)}" if names else f"no runs in {parent}"
    return CheckpointError(f"no run at {str(run)!r}; {there}.{nearest(path.name, names)}")
