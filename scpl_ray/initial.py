"""Starting from another run's weights, by layer name: any cut of the same layers will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors.torch import save

from scpl_ray.checkpoint import Checkpoint, read_checkpoint
from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.errors import CheckpointError
from scpl_ray.models.registry import build_model
from scpl_ray.run_folder import CHECKPOINT, find_run
from scpl_ray.stage_facts import StageSpec
from scpl_ray.stage_module import StageModule


@dataclass(frozen=True)
class Initial:
    """What a run starts from.

    Attributes:
        run: the folder of the other run.
        checkpoint: its weights, vocabulary and config.
    """

    run: str
    checkpoint: Checkpoint

    @property
    def tokenizer(self) -> str | None:
        """The other run's vocabulary, which its embedding rows belong to."""
        return self.checkpoint.info.tokenizer or None

    def weights(self) -> bytes:
        """All tensors by global name, as safetensors."""
        return save({k: v.contiguous() for k, v in self.checkpoint.weights.items()})

    def report(self, config: Config, info: DataInfo, specs: list[StageSpec]) -> dict[str, Any]:
        """Checks that the weights fit, and says which layers and heads are taken or new.

        Raises:
            CheckpointError: a shape differs, or no layer is shared.
        """
        model, there = build_model(config, info), self.checkpoint.weights
        taken: list[str] = []
        new: list[str] = []
        for spec in specs:
            module = StageModule(spec, model, config, info.num_classes)
            for name, own in module.named_state().items():
                if name in there and there[name].shape != own.shape:
                    raise CheckpointError(
                        f"model.init_from: {self.run}: {name} has shape "
                        f"{list(there[name].shape)}, this config's has {list(own.shape)}; use the "
                        "other run's model settings (they are in its config.yaml)"
                    )
                owner = _owner(name, spec)
                (taken if name in there else new).append(owner)
        fresh = sorted(set(new), key=new.index)
        used = [n for n in dict.fromkeys(taken) if n not in fresh]
        if not any(n.startswith("layer ") for n in used):
            raise CheckpointError(
                f"model.init_from: {self.run} has no layer of this config ("
                f"{', '.join(model.names)}); it has "
                + ", ".join(n for s in self.checkpoint.specs for n in s.layers)
            )
        return {"run": self.run, "taken": used, "new": fresh}


def read_initial(config: Config) -> Initial | None:
    """Reads `model.init_from`.

    Raises:
        CheckpointError: there is no such run, or it is damaged.
    """
    if config.model.init_from is None:
        return None
    folder = find_run(config.model.init_from)
    return Initial(str(folder), read_checkpoint(folder / CHECKPOINT))


def _owner(name: str, spec: StageSpec) -> str:
    if name.startswith("heads."):
        kind = name.removeprefix(f"heads.{spec.layers[-1]}.").partition(".")[0].replace("_", " ")
        return f"{kind} after {spec.layers[-1]}"
    layer = next(n for n in sorted(spec.layers, key=len, reverse=True) if f"layers.{n}." in name)
    return f"layer {layer}"
