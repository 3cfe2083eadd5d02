"""Others who are told what a run does: `callbacks:` in a config.

from scpl_ray.callbacks import Callback

class Print(Callback):
    def on_evaluate(self, split, epoch, step, exits):
        print(split, [e.accuracy for e in exits])

scpl_ray.train({"callbacks": ["my_module:Print", {"mlflow": {"experiment": "reviews"}}]})
"""

from scpl_ray.callbacks.base import Callback, Metrics, RunStart

__all__ = ["Callback", "Metrics", "RunStart"]
