"""What tests share: small real data, small configs, the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
]


def write_texts(path: Path, samples: int = 150, seed: int = 0) -> Path:
    """Writes a JSON Lines file of two classes that differ in their words; lengths vary."""
    draw = random.Random(seed)
    rows = []
    for i in range(samples):
        label = i % 2
        pool = WORDS[:9] if label else WORDS[5:]
        words = [draw.choice(pool) for _ in range(draw.randint(2, 14))]
        rows.append(json.dumps({"text": " ".join(words), "label": ["neg", "pos"][label]}))
    path.write_text("\n".join(rows) + "\n")
    return path


def small_config(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A config that trains in a second or two; `changes` use `__` for a dot."""
    tree: dict[str, Any] = {
        "data": {"source": "file", "path": str(data), "max_len": 16},
        "model": {"kind": "transformer", "layers": 3, "width": 16, "heads": 2, "dropout": 0.2},
        "train": {"epochs": 2, "batch_size": 32, "clip_norm": 1.0},
        "resources": {"threads": 1, "device": "cpu"},
        "output": {"dir": str(out), "tensorboard": False},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def cli(
    *args: str | Path, cwd: Path, timeout: float = 120, env: dict[str, str] | None = None
) -> Any:
    """Runs the real command line as a subprocess."""
    return subprocess.run(
        [sys.executable, "-m", "scpl_ray", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"COLUMNS": "200"} | (env or {}),
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of all processes that run in a folder: a job's Ray and its actors."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == folder:
                found.append(" ".join(process.cmdline()) or process.name())
    return found
