"""A folder in the manner of the Hugging Face Hub, and how it is read back.

config.json                the network: config, labels, stages; no path of this machine
model.safetensors          all weights, by global name
tokenizer.json             text: the vocabulary
preprocessor_config.json   images: size, mean and deviation
README.md                  the model card
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scpl_ray.checkpoint import Checkpoint
from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import CheckpointError
from scpl_ray.manifest import TOKENIZER, Damaged, describe, described, read_tree
from scpl_ray.stage_facts import StageSpec

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
_TYPE, _FORMAT = "scpl_ray", 1
_KEPT = ("name", "seed", "method", "stages", "data", "model", "local", "optimizer", "train")


def is_exported(path: Path) -> bool:
    """Whether a folder was written by `write_folder`."""
    try:
        tree = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and tree.get("model_type") == _TYPE


def write_folder(
    checkpoint: Checkpoint, card: str, temperatures: Mapping[int, float], folder: Path
) -> None:
    """Writes all files into an existing, empty folder.

    Args:
        checkpoint: of the run.
        card: the README.
        temperatures: of the exits, by the number of the stage.
        folder: where.
    """
    info = portable_info(checkpoint)
    tree = describe(portable_config(checkpoint), info, checkpoint.threads)
    tree["config"] = {key: tree["config"][key] for key in _KEPT} | {
        "pipeline": {"activation_dtype": checkpoint.config.pipeline.activation_dtype}
    }
    names = dict(enumerate(info.label_names))
    tree = {
        "model_type": _TYPE,
        "architectures": ["Network"],
        "format": _FORMAT,
        "id2label": names,
        "label2id": {name: i for i, name in names.items()},
        "step": checkpoint.step,
        "stages": [dataclasses.asdict(spec) for spec in checkpoint.specs],
        "temperatures": {str(stage): t for stage, t in temperatures.items()},
        **tree,
    }
    _write_json(folder / CONFIG, tree)
    # Parts that share memory are not taken by the format.
    weights = {name: tensor.clone().contiguous() for name, tensor in checkpoint.weights.items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    if info.tokenizer:
        (folder / TOKENIZER).write_text(info.tokenizer, encoding="utf-8")
    if info.kind == "image":
        _write_json(folder / PREPROCESSOR, preprocessor(info))
    (folder / "README.md").write_text(card, encoding="utf-8")


def read_folder(folder: Path) -> Checkpoint:
    """Reads what `write_folder` wrote.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    try:
        tree = read_tree((folder / CONFIG).read_bytes(), str(folder / CONFIG))
        if tree["format"] != _FORMAT:
            raise CheckpointError(
                f"{folder / CONFIG}: format {tree['format']!r} is not one of this version (it "
                f"reads {_FORMAT})"
            )
        text = tree["data"]["kind"] == "text"
        tokenizer = (folder / TOKENIZER).read_text(encoding="utf-8") if text else ""
        config, info, threads = described(tree, tokenizer)
        specs = [StageSpec(s["number"], tuple(s["layers"]), s["with_exit"]) for s in tree["stages"]]
        weights = load_file(folder / WEIGHTS)
        return Checkpoint(config, info, specs, int(tree["step"]), threads, weights)
    except OSError as error:
        raise CheckpointError(f"{folder}: not whole: {error}; export the run again") from error
    except (Damaged, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: damaged, or written by another version ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); export the run again"
        ) from error


def folder_temperatures(folder: Path) -> dict[int, float]:
    """The exits' temperatures that were exported with a network, by the number of the stage.

    Raises:
        CheckpointError: they are damaged.
    """
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return {int(stage): float(t) for stage, t in tree.get("temperatures", {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: temperatures that cannot be read ({error}); export the run again"
        ) from error


def portable_config(checkpoint: Checkpoint) -> Config:
    """The config without paths of this machine; a network of `transformers` by its options."""
    config = checkpoint.config
    none = dict.fromkeys(("path", "test_path", "cache_dir"))
    model = config.model.model_copy(update={"word_vectors": None, "init_from": None})
    if model.kind == "huggingface" and model.path is not None and not model.factory:
        from scpl_ray.huggingface import read_config

        found = read_config(model)
        options = {k: v for k, v in found.to_dict().items() if k not in _PACKAGE_OWN}
        update = {"path": None, "options": options | {"model_type": found.model_type}}
        model = model.model_copy(update=update)
    return config.model_copy(update={"data": config.data.model_copy(update=none), "model": model})


# What `transformers` notes about a file, not about the network in it.
_PACKAGE_OWN = ("_name_or_path", "architectures", "transformers_version", "id2label", "label2id")


def portable_info(checkpoint: Checkpoint) -> DataInfo:
    """What is known of the data; of the user's own file the name alone."""
    info, path = checkpoint.info, checkpoint.config.data.path
    if path is None:
        return info
    return replace(info, source=info.source.replace(path, Path(path).name))


def preprocessor(info: DataInfo) -> dict[str, Any]:
    """How images are prepared, in the words of the Hub."""
    channels, height, width = info.image_shape
    mean, deviation = info.pixel_stats
    return {
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "size": {"shortest_edge": min(height, width)},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(deviation),
    }


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
