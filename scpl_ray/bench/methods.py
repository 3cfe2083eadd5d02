"""Methods side by side: each trains the same network for as long, and all are scored alike.

In turns: all methods with the first seed, then all with the next, so that each sees the same
machine. Methods that train stages run as `train` does, through Ray; the others in processes of
their own, see `kinds`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scpl_ray.bench.kinds import KINDS, ONE_PROCESS, PIPELINED, check_kind
from scpl_ray.comparing.rows import Row, rows_of
from scpl_ray.comparing.runs import Run
from scpl_ray.config import Config, load_config
from scpl_ray.errors import ConfigError, RunError, unknown
from scpl_ray.objectives import METHODS, OWN
from scpl_ray.report import Reporter
from scpl_ray.stage_facts import StageSpec

Say = Callable[[str], None]

COLUMNS = ("method", "how", "runs")

# Of a name that is a one-process baseline here and a method of `train` there, the latter.
_STAGES = {"bp-stages": "bp"}
NAMES: tuple[str, ...] = (*KINDS, *_STAGES, *(name for name in METHODS if name not in KINDS))


@dataclass(frozen=True)
class Methods:
    """What came out.

    Attributes:
        rows: one for each method.
        runs: of each method, by seed.
        tried_ms: of the pipelined ones, a step by the number of micro-batches.
        notices: what the user must not miss.
    """

    rows: list[Row]
    runs: dict[str, list[Run]]
    tried_ms: dict[str, dict[int, float]]
    notices: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        each = {
            name: [
                {k: v for k, v in vars(run).items() if k not in ("path", "config")} for run in runs
            ]
            for name, runs in self.runs.items()
        }
        return {
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "runs": each,
            "tried_ms": self.tried_ms,
            "notices": self.notices,
        }


class Notices(Reporter):
    """Passes on what the user must not miss, once, and nothing else.

    Args:
        name: of the method.
        say: is given each line.
        known: what has been said; more is added.
    """

    def __init__(self, name: str, say: Say, known: list[str]) -> None:
        self.name, self.say, self.known = name, say, known

    def notice(self, text: str) -> None:
        """Says it."""
        line = f"{self.name}: {text}"
        if line not in self.known:
            self.known.append(line)
            self.say(f"!!! {line}")


def read_names(text: str) -> list[str]:
    """Reads a list of methods, with commas between.

    Raises:
        ConfigError: one is not known, or none is given.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--methods: {text!r} names none; allowed: {', '.join(NAMES)}")
    for name in names:
        if name not in NAMES and not re.match(OWN, name):
            raise ConfigError(f"--methods: {unknown('method', name, NAMES)}")
    return names


def measure(
    config: Config, names: Sequence[str], repeats: int, say: Say, debug: bool = False
) -> Methods:
    """Trains each method with each seed.

    Args:
        config: the job; its `method` does not matter.
        names: what `read_names` gives.
        repeats: seeds, from the config's on.
        say: is given a line for each run, and what the user must not miss.
        debug: let Ray and the actors print.

    Raises:
        ConfigError: a method cannot train this network; said before anything is trained.
        RunError: a run failed.
    """
    specs = _stages(config)
    notices = _check(config, names, specs)
    for notice in notices:
        say(f"!!! {notice}")
    found: dict[str, list[Run]] = {name: [] for name in names}
    tried: dict[str, dict[int, float]] = {}
    micro: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="scpl-ray-bench-") as folder:
        for seed in range(config.seed, config.seed + repeats):
            for name in names:
                if name in KINDS:
                    run, trained = _baseline(name, _seeded(config, seed), specs, micro.get(name))
                    micro[name] = trained.micro_batches
                    tried.setdefault(name, trained.tried_ms)
                else:
                    listener = Notices(name, say, notices)
                    run = _stream(name, config, seed, Path(folder), listener, debug)
                found[name].append(run)
                say(f"seed {seed}: {_line(run)}")
    bases = [names.index(base) for base in ONE_PROCESS if base in names] or [0]
    chosen = {name: steps for name, steps in tried.items() if steps}
    return Methods(rows_of(list(found.values()), bases), found, chosen, notices)


def _stages(config: Config) -> list[StageSpec]:
    from scpl_ray.engine.data import load_data
    from scpl_ray.models.registry import build_model
    from scpl_ray.partition import partition

    names = build_model(config, load_data(config)[1].info).names
    cut = partition(names, config.stages)
    return [StageSpec(k, layers, k == len(cut)) for k, layers in enumerate(cut, 1)]


def _check(config: Config, names: Sequence[str], specs: list[StageSpec]) -> list[str]:
    """Refuses what cannot be trained; returns what is not equal among the methods."""
    from scpl_ray.job_checks import check_before, check_border

    apart = [name for name in names if name in KINDS]
    for name in names:
        if name in apart:
            check_kind(name, config, [spec.layers for spec in specs])
        else:
            own = _with(config, name, config.seed, Path())
            check_before(own)
            check_border(own, len(specs))
    who = ", ".join(apart)
    if apart and config.resources.device != "cpu":
        import torch

        if torch.cuda.is_available():
            raise ConfigError(
                f"resources.device: {config.resources.device!r}: here is a GPU, but {who} run on "
                "CPUs; set it to cpu, so that all methods do"
            )
    said = []
    if apart and config.replicas:
        said.append(f"replicas: {who}: one process a stage all the same")
    elastic = config.elastic
    if apart and (elastic.start_stages or elastic.grow_at.epoch or elastic.grow_at.step):
        said.append(f"elastic: {who}: all layers train from the start")
    return said


def _seeded(config: Config, seed: int) -> Config:
    return config.model_copy(update={"seed": seed})


def _with(config: Config, name: str, seed: int, folder: Path) -> Config:
    """The config of a run of `train`."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    own = {
        "method": _STAGES.get(name, name),
        "seed": seed,
        "name": f"bench-{plain}-seed{seed}",
        "output.dir": str(folder),
        "output.tensorboard": False,
    }
    return load_config(config, [f"{key}={json.dumps(value)}" for key, value in own.items()])


def _baseline(
    name: str, config: Config, specs: list[StageSpec], micro: int | None
) -> tuple[Run, Any]:
    from scpl_ray.bench.end_to_end import train_end_to_end

    trained = train_end_to_end(name, config, specs, micro)
    last = len(specs)
    accuracy = {split: {last: result.accuracy} for split, result in trained.results.items()}
    parts = {"process": trained.processes, "thread": trained.threads}
    if name in PIPELINED:
        parts = {"process": trained.processes, "micro-batch": trained.micro_batches}
    how = ", ".join(_counted(number, what) for what, number in parts.items())
    run = Run(
        Path(),
        name,
        {"method": how},
        accuracy.get("test", {}),
        accuracy.get("validation", {}),
        trained.seconds / config.train.epochs,
        trained.samples / trained.seconds,
        tuple(trained.memory_mib),
        statistics.fmean(trained.waiting),
    )
    return run, trained


def _stream(
    name: str, config: Config, seed: int, folder: Path, listener: Reporter, debug: bool
) -> Run:
    from scpl_ray.api import train
    from scpl_ray.comparing.runs import read_run

    done = train(_with(config, name, seed, folder), reporter=listener, debug=debug)
    if done.summary["status"] != "finished":
        raise RunError(f"{name}, seed {seed}: the run was {done.summary['status']} on command")
    stages = len(done.summary["stages"])
    how = {"method": _counted(stages, "stage")}
    return dataclasses.replace(read_run(done.dir), name=name, config=how)


def _counted(number: int, what: str) -> str:
    ending = "" if number == 1 else "es" if what.endswith(("s", "ch")) else "s"
    return f"{number} {what}{ending}"


def _line(run: Run) -> str:
    last = max(run.accuracy, default=None)
    right = "" if last is None else f"exit {last} {100 * run.accuracy[last]:.2f} % on test, "
    return (
        f"{run.name} ({run.config['method']}): {right}{run.epoch_s:.1f} s/epoch, "
        f"{run.samples_per_s:,.0f} samples/s"
    )
