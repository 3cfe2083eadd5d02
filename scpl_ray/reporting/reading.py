"""A run's folder as a report needs it; runs that have not finished too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scpl_ray.errors import CheckpointError
from scpl_ray.reporting.history import History, read_history
from scpl_ray.run_folder import CONFIG, LOG, SUMMARY, find_begun
from scpl_ray.trace import EVENTS, PICTURE

_PNG = b"\x89PNG\r\n\x1a\n"
_LOG_LINES = 300


@dataclass(frozen=True)
class Told:
    """What a run's folder says.

    Attributes:
        path: of the folder.
        config: the resolved tree.
        config_text: the same, as the file has it.
        summary: empty where there is none yet.
        history: over time.
        timeline: the PNG of `--trace`; None: there is none.
        traced: whether the run wrote events of a timeline.
        log: its last lines.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    summary: dict[str, Any]
    history: History
    timeline: bytes | None
    traced: bool
    log: str

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("name", self.path.name))

    @property
    def status(self) -> str:
        """How it ended, or that it did not."""
        return str(self.summary.get("status", "finished" if self.scored else "not finished"))

    @property
    def scored(self) -> bool:
        """Whether it came to its end, or was stopped in good order."""
        return "exits" in self.summary


def read_told(run: str | Path) -> Told:
    """Reads a run's folder.

    Args:
        run: the folder, or its name under `runs/`.

    Raises:
        CheckpointError: there is no such run, or a file of it is damaged.
    """
    folder = find_begun(run)
    text = _text(folder / CONFIG) or ""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointError(f"{folder / CONFIG}: damaged, not YAML: {error}") from None
    summary_text = _text(folder / SUMMARY)
    try:
        summary = {} if summary_text is None else json.loads(summary_text)
    except ValueError as error:
        raise CheckpointError(f"{folder / SUMMARY}: damaged, not JSON: {error}") from None
    for name, tree in ((CONFIG, config), (SUMMARY, summary)):
        if not isinstance(tree, dict):
            raise CheckpointError(
                f"{folder / name}: damaged: it holds a {type(tree).__name__}, not keys and values"
            )
    log = (_text(folder / LOG) or "").splitlines()
    return Told(
        folder,
        config,
        text,
        summary,
        read_history(folder),
        _timeline(folder / PICTURE),
        (folder / EVENTS).is_file(),
        "\n".join(log[-_LOG_LINES:]),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _timeline(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not content.startswith(_PNG):
        raise CheckpointError(f"{path}: damaged: not a PNG picture")
    return content
