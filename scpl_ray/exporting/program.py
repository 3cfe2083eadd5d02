"""torch.export: the network as one graph, for any batch size and any length of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scpl_ray.errors import RunError
from scpl_ray.exporting.check import Answer, Inputs, made_up
from scpl_ray.exporting.plain import exits_module, plain_attention
from scpl_ray.network import Network

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FACTS, TOKENIZER = "scpl_ray.json", "tokenizer.json"


def exported_program(network: Network) -> ExportedProgram:
    """Exports the network.

    Raises:
        RunError: it has something that cannot be exported.
    """
    from torch.export import Dim, export

    inputs = made_up(network.info, 3, 5)
    # What bounds them, e.g. a table of positions, the exporter finds by itself.
    dynamic = (Dim.DYNAMIC, Dim.DYNAMIC) if network.info.kind == "text" else (Dim.DYNAMIC,)
    shapes = {name: dict(enumerate(dynamic)) for name in inputs}
    try:
        with torch.no_grad(), plain_attention():
            return export(exits_module(network), (), inputs, dynamic_shapes=shapes)
    except Exception as error:
        own = network.config.model.factory or network.config.model.kind
        raise RunError(
            f"this network ({own}) cannot be exported: {type(error).__name__}: "
            f"{(str(error).strip().splitlines() or [''])[0]}. Its layers must not decide by values "
            "of tensors; --to huggingface writes weights and configuration of any network"
        ) from error


def facts(network: Network, temperatures: Mapping[int, float]) -> dict[str, Any]:
    """What a program needs that is to use the exported network.

    Args:
        network: exported.
        temperatures: of the exits, by the number of the stage; logits are as they are, undivided.
    """
    info = network.info
    common = {
        "format": 1,
        "kind": info.kind,
        "exits": [f"exit_{stage}" for stage in network.exits],
        "labels": list(info.label_names),
        "temperatures": {f"exit_{stage}": t for stage, t in temperatures.items()},
        "trained_on": info.name,
    }
    if info.kind == "text":
        return common | {"max_len": info.max_len, "pad_id": network.pad_id}
    mean, deviation = info.pixel_stats
    shape = list(info.image_shape)
    return common | {"image_shape": shape, "pixel_mean": mean, "pixel_std": deviation}


def write_program(network: Network, temperatures: Mapping[int, float], path: Path) -> Answer:
    """Writes a .pt2 file and gives what was read back from it.

    Its extra files `scpl_ray.json` and, for text, `tokenizer.json` say how it is used.
    """
    extra = {FACTS: json.dumps(facts(network, temperatures), indent=2)}
    if network.info.tokenizer:
        extra[TOKENIZER] = network.info.tokenizer
    torch.export.save(exported_program(network), path, extra_files=extra)
    module = torch.export.load(path).module()

    def answer(inputs: Inputs) -> Any:
        with torch.no_grad():
            return module(**inputs)

    return answer
