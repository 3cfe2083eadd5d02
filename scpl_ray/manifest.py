"""What the manifests of all checkpoints share: config, data, stages, and checked tensors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"


class Damaged(ValueError):
    """Why a file of a checkpoint cannot be used.

    Args:
        file: its name within the checkpoint; empty: the checkpoint as a whole.
        text: the reason.
    """

    def __init__(self, file: str, text: str) -> None:
        super().__init__(file, text)
        self.file, self.text = file, text

    def __str__(self) -> str:
        return f"{self.file}: {self.text}" if self.file else self.text


def weights_file(number: int) -> str:
    """Name of a stage's weights."""
    return f"stage-{number}.safetensors"


def optimizer_file(number: int) -> str:
    """Name of what a stage's optimizer remembers."""
    return f"stage-{number}.optimizer.safetensors"


def stash_file(number: int, epoch: int) -> str:
    """Name of the weights that a stage kept at the end of an epoch."""
    return f"stage-{number}.stash-{epoch}.safetensors"


def sha256(content: bytes) -> str:
    """The checksum that manifests hold."""
    return hashlib.sha256(content).hexdigest()


def describe(config: Config, info: DataInfo, threads: int) -> dict[str, Any]:
    """What a manifest says of a network; the vocabulary goes into a file of its own."""
    data = dataclasses.asdict(info)
    data.pop("tokenizer")
    return {"threads": threads, "data": data, "config": config.model_dump(mode="json")}


def described(manifest: dict[str, Any], tokenizer: str) -> tuple[Config, DataInfo, int]:
    """Reads back what `describe` said.

    Raises:
        KeyError, TypeError, ValueError: something is missing or of another kind.
    """
    data = {**manifest["data"], "tokenizer": tokenizer}
    for key in ("label_names", "image_shape"):
        data[key] = tuple(data[key])
    # One number for all channels, in checkpoints from before colour images.
    stats = (v if isinstance(v, list) else [v] for v in data["pixel_stats"])
    data["pixel_stats"] = tuple(tuple(v) for v in stats)
    info = DataInfo(**data)
    return Config.model_validate(manifest["config"]), info, int(manifest["threads"])


def read_tree(content: bytes, file: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        Damaged: it is none.
    """
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise Damaged(file, f"cannot be read: not JSON ({error})") from error
    if not isinstance(tree, dict):
        raise Damaged(file, "cannot be read: not a JSON object")
    return tree


def checked(content: bytes, checksum: str, file: str) -> bytes:
    """Returns the content if it is what the manifest says.

    Raises:
        Damaged: the checksum differs.
    """
    if sha256(content) != checksum:
        raise Damaged(
            file,
            "its checksum differs from the manifest's: the file is damaged or was replaced",
        )
    return content


def read_tensors(content: bytes, checksum: str, file: str) -> dict[str, Tensor]:
    """Reads tensors, after a look at their checksum; nothing is unpickled.

    Raises:
        Damaged: another checksum, or not a safetensors file.
    """
    try:
        return load(checked(content, checksum, file))
    except (SafetensorError, KeyError) as error:
        raise Damaged(file, f"not a safetensors file: {error}") from error
