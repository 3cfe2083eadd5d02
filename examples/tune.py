"""Ray Tune over `scpl_ray.train`: temperature, and a learning rate for each stage.

    pip install -e '.[tune]' && python examples/tune.py

Two trials run at a time, each with an actor per stage in the same Ray; every epoch a trial reports
the validation accuracy of its last exit, and ASHA ends those that fall behind. The search does not
look at the test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).resolve().with_name("digits.yaml")
STAGES, AT_ONCE = 3, 2


def trial(choice: dict[str, Any]) -> None:
    """Trains one network; ends when Tune has seen enough of it."""
    from ray import tune

    import scpl_ray
    from scpl_ray.report import Reporter

    class ToTune(Reporter):
        def evaluated(self, split: str, epoch: int, exits: list[Any]) -> None:
            if split == "validation":
                tune.report({"accuracy": exits[-1].accuracy, "epoch": epoch + 1})

    rates = [f"optimizer.stages.{k}.lr={choice[f'lr_{k}']}" for k in range(1, STAGES + 1)]
    rest = [
        f"train.epochs={choice['epochs']}",
        f"output.dir={choice['runs']}",
        "resources.threads=1",
    ]
    scpl_ray.train(
        CONFIG,
        [f"local.temperature={choice['temperature']}", *rates, *rest],
        name=tune.get_context().get_trial_name(),
        reporter=ToTune(),
    )


def main() -> None:
    """Searches, and prints the best choice."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--runs", type=Path, default=Path("runs/tune"), help="where they go")
    asked = parser.parse_args()
    # Slots, not cores: a trial holds one for itself and one for each stage; they share the cores.
    ray.init(num_cpus=AT_ONCE * (1 + STAGES), include_dashboard=False)
    rates = {f"lr_{k}": tune.loguniform(1e-4, 1e-2) for k in range(1, STAGES + 1)}
    fixed = {"epochs": asked.epochs, "runs": str(asked.runs.absolute())}
    tuner = tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 1}] * (1 + STAGES))),
        param_space={"temperature": tune.loguniform(0.05, 0.5), **rates, **fixed},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=asked.trials,
            max_concurrent_trials=AT_ONCE,
            scheduler=ASHAScheduler(
                time_attr="epoch", max_t=asked.epochs, grace_period=min(2, asked.epochs)
            ),
        ),
        run_config=tune.RunConfig(storage_path=str(asked.runs.absolute()), name="search"),
    )
    results = tuner.fit()
    best = results.get_best_result()
    found = {key: f"{best.config[key]:.3g}" for key in ("temperature", *rates)}
    print(f"best of {len(results)}: {best.metrics['accuracy']:.3f} on validation with {found}")
    ray.shutdown()
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed")


if __name__ == "__main__":
    main()
