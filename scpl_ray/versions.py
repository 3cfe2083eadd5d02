"""Versions and machine facts, for summaries and bug reports. Imports none of the packages."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import psutil

PACKAGES = (
    *("scpl-ray", "ray", "torch", "torchvision", "datasets", "pyarrow", "tokenizers", "numpy"),
    "transformers",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str]:
    """Facts of this machine that a bug report needs."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "not set"),
    }
