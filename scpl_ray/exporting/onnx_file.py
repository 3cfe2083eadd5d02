"""ONNX: one output for each exit, for any batch size and any length of texts."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scpl_ray.errors import ConfigError, RunError
from scpl_ray.exporting.check import Answer, Inputs
from scpl_ray.exporting.program import FACTS, TOKENIZER, exported_program, facts
from scpl_ray.network import Network


def need_packages() -> None:
    """Checks that the packages are there.

    Raises:
        ConfigError: one is not.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--to onnx needs the package {name} ({error}): pip install 'scpl-ray[export]'"
            ) from error


def write_onnx(network: Network, temperatures: Mapping[int, float], path: Path) -> Answer:
    """Writes an .onnx file and gives what onnxruntime makes of it.

    Its metadata hold labels and preprocessing, and for text the tokenizer.

    Raises:
        ConfigError: a package is missing.
        RunError: the network has something that ONNX has not.
    """
    need_packages()
    program = exported_program(network)
    text = network.info.kind == "text"
    axes = {0: "batch", 1: "time"} if text else {0: "batch"}
    names = ["tokens", "mask"] if text else ["images"]
    exits = [f"exit_{stage}" for stage in network.exits]
    loud = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                input_names=names,
                output_names=exits,
                dynamic_shapes=dict.fromkeys(names, axes),
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        own = network.config.model.factory or network.config.model.kind
        raise RunError(
            f"this network ({own}) cannot be written as ONNX: {type(error).__name__}: "
            f"{(str(error).strip().splitlines() or [''])[0]}. --to torch may do"
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(loud)
    assert made is not None, "with dynamo, a program comes back"
    made.model.metadata_props[FACTS] = json.dumps(facts(network, temperatures))
    if network.info.tokenizer:
        made.model.metadata_props[TOKENIZER] = network.info.tokenizer
    made.save(path, external_data=False)
    return onnx_answer(path)


def onnx_answer(path: Path) -> Answer:
    """An .onnx file, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(inputs: Inputs) -> dict[str, Any]:
        found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return answer
