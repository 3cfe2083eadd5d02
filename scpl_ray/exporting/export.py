"""`scpl_ray.export`: writes a run for other programs, and compares before it is in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scpl_ray.checkpoint import Checkpoint
from scpl_ray.errors import ConfigError, nearest
from scpl_ray.exiting.temperatures import in_use
from scpl_ray.run_folder import SUMMARY, find_run

Format = Literal["torch", "onnx", "huggingface"]
_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        inputs: made-up inputs on which it was compared with the network.
        difference: the largest of a logit, relative where logits are above 1.
        said: what differs from the run, a sentence each.
    """

    path: Path
    inputs: int
    difference: float
    said: list[str]


def export(
    run: str | Path,
    to: Format,
    output: str | Path,
    *,
    overwrite: bool = False,
    license: str = "unknown",
    temperatures: Mapping[int, float] | None = None,
) -> Exported:
    """Writes a finished run as a torch.export program, as ONNX, or as a Hugging Face-style folder.

    What was written is read back and compared with the network; only then it takes its place.

    Args:
        run: the run's folder, or its name under `runs/`.
        to: "torch", "onnx" or "huggingface".
        output: a .pt2 or .onnx file, or a folder.
        overwrite: replace it where it exists.
        license: of the weights, for the card of "huggingface".
        temperatures: of the exits, by the number of the stage; noted, not applied. Default: the
            run's, where it is calibrated.

    Raises:
        UserError: no such run, a place that cannot be written, a package that is missing.
        RunError: the network cannot be exported so, or what came out answers otherwise.
    """
    folder, path = find_run(run), Path(output)
    check_place(path, to, overwrite)
    if to == "onnx":
        from scpl_ray.exporting.onnx_file import need_packages

        need_packages()
    from scpl_ray.network import read_network

    checkpoint = read_network(folder)
    scale = dict(in_use(folder).values if temperatures is None else temperatures)
    with _in_place(path) as building:
        if to == "huggingface":
            return _folder(checkpoint, folder, building, path, license, scale)
        return _file(checkpoint, to, building, path, scale)


def check_place(path: Path, to: str, overwrite: bool) -> None:
    """Checks where the export is to go.

    Raises:
        ConfigError: another extension, no such folder, or it exists.
    """
    from scpl_ray.exporting.folder import is_exported

    suffix = _SUFFIXES.get(to)
    if suffix is not None and path.suffix != suffix:
        raise ConfigError(f"--output: {str(path)!r} should end in {suffix} with --to {to}")
    if suffix is None and path.suffix in _SUFFIXES.values():
        raise ConfigError(f"--output: {str(path)!r}: --to {to} writes a folder; name one")
    if not path.absolute().parent.is_dir():
        parent = path.absolute().parent
        near = nearest(parent.name, [p.name for p in parent.parent.glob("*")])
        raise ConfigError(f"--output: no folder {str(parent)!r}; make it first.{near}")
    if path.exists() and not overwrite:
        raise ConfigError(f"--output: {path} exists; name another, or replace it with --overwrite")
    if path.is_dir() and not (suffix is None and is_exported(path)):
        raise ConfigError(
            f"--output: {path} is a folder that no export made, so --overwrite leaves it alone"
        )
    if suffix is None and path.is_file():
        raise ConfigError(f"--output: {path} is a file; --to {to} writes a folder")


def _file(
    checkpoint: Checkpoint, to: str, building: Path, path: Path, scale: dict[int, float]
) -> Exported:
    from scpl_ray.exporting.check import check
    from scpl_ray.exporting.onnx_file import write_onnx
    from scpl_ray.exporting.plain import plain_network
    from scpl_ray.exporting.program import write_program

    network, said = plain_network(checkpoint)
    write = write_onnx if to == "onnx" else write_program
    inputs, worst = check(network, write(network, scale, building))
    return Exported(path, inputs, worst, said)


def _folder(
    checkpoint: Checkpoint,
    run: Path,
    building: Path,
    path: Path,
    license: str,
    scale: dict[int, float],
) -> Exported:
    from dataclasses import replace

    from scpl_ray.exporting.card import model_card
    from scpl_ray.exporting.check import check
    from scpl_ray.exporting.folder import portable_config, portable_info, write_folder
    from scpl_ray.exporting.plain import named_exits
    from scpl_ray.network import Network, load, uncompiled

    portable = replace(
        checkpoint, config=portable_config(checkpoint), info=portable_info(checkpoint)
    )
    building.mkdir()
    write_folder(portable, model_card(portable, _summary(run), license, scale), scale, building)
    again = load(building, compiled=False)
    network = Network(uncompiled(checkpoint)).eval()
    inputs, worst = check(network, lambda given: named_exits(again, given))
    said = []
    if checkpoint.config.model.factory:
        said.append(
            f"the layers come from {checkpoint.config.model.factory}: who loads the folder needs "
            "that module too"
        )
    return Exported(path, inputs, worst, said)


def _summary(run: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """Gives a place beside the wished one; what is written there takes it if all went well."""
    # The extension stays: writers go by it.
    building = path.with_name(f".tmp-{path.name}")
    _remove(building)
    try:
        yield building
        _remove(path)
        building.rename(path)
    except OSError as error:
        raise ConfigError(f"--output: cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(building)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
