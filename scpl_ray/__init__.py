"""scpl-ray: train deep networks layer-parallel, without end-to-end backpropagation, on Ray.

import scpl_ray

run = scpl_ray.train("examples/imdb.yaml", ["train.epochs=2"], name="try")
run.summary["exits"]
run.plot()                               # accuracy and losses over the epochs
network = scpl_ray.load(run.dir)         # forward(inputs) -> logits per exit
for answer in scpl_ray.predict(run.dir, "a fine film", "more.csv", threshold=0.9):
    answer.result                        # label, probability, stage
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scpl_ray.api import train
    from scpl_ray.evaluate import evaluate_run
    from scpl_ray.exporting.export import export
    from scpl_ray.network import Network, load
    from scpl_ray.predicting.answers import predict
    from scpl_ray.predictor import Predictor
    from scpl_ray.trained import TrainedRun

__version__ = "0.1.0"
__all__ = [
    "Network",
    "Predictor",
    "TrainedRun",
    "evaluate_run",
    "export",
    "load",
    "losses",
    "models",
    "predict",
    "train",
]

# Loaded on first use: `scpl-ray --help` must not wait for torch and ray.
_HOMES = {
    "train": "scpl_ray.api",
    "TrainedRun": "scpl_ray.trained",
    "load": "scpl_ray.network",
    "Network": "scpl_ray.network",
    "Predictor": "scpl_ray.predictor",
    "predict": "scpl_ray.predicting.answers",
    "export": "scpl_ray.exporting.export",
    "evaluate_run": "scpl_ray.evaluate",
}


def __getattr__(name: str) -> Any:
    if name in ("losses", "models"):
        return importlib.import_module(f"scpl_ray.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'scpl_ray' has no attribute {name!r}")
