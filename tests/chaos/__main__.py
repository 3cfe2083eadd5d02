"""Kills processes of training jobs at random and checks that nothing but time is lost.

    python -m tests.chaos --kills 100 --per-run 5 --seed 0 --out chaos.json

First the job runs undisturbed, on Ray and on the local engine. Then it runs again and again; after
a random number of further steps a random process of it is killed with SIGKILL: a stage, the
standby (or a stage that is about to join), the data process, the mailbox, the holder of the stages
that have left, or the driver, which is started again with --resume. In 15 % of the cases the next
kill comes at once, and in 20 % the last one comes after the last step. Stages join and leave by
plan, epochs are evaluated, snapshots and checkpoints are written meanwhile.

A run is right if its weights are bit for bit those of the undisturbed runs, each step is in
metrics.jsonl exactly once, and no process, shared memory, temporary file or *.tmp is left. A run
that fails, or makes no step for 120 s, is ended; its log is kept and named. What is killed at
which step is drawn from the seed; where exactly it is in its work then is the machine's chance.
Exit code 1 unless all are identical. Long runs with memory over time: `python -m tests.chaos.soak`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tests.chaos.job import STEPS_PER_EPOCH, Job, config
from tests.chaos.run import HANG_S, Kill, Killer, Outcome
from tests.chaos.stats import KINDS, quantile, table

_FAILED_RUNS = 5


def parse_targets(
    context: click.Context | None, parameter: click.Parameter | None, value: str
) -> list[str]:
    """Reads a comma-separated list of kinds."""
    targets = [word.strip() for word in value.split(",") if word.strip()]
    wrong = [t for t in targets if t not in (*KINDS, "any")]
    if wrong or not targets:
        raise click.BadParameter(f"{', '.join(wrong) or 'none'}; known: {', '.join(KINDS)}, any")
    return targets


def kill_table(kills: Sequence[Kill]) -> str:
    """Sums kills up by kind."""
    head = ["kind", "kills", "identical", "not", "next step: median s", "p90", "max"]
    rows = [[*head, "caught up: median", "stall: median", "max"]]
    for kind in [*[k for k in KINDS if any(kill.kind == k for kill in kills)], "all"]:
        of_kind = [kill for kill in kills if kind in (kill.kind, "all")]
        good = sum(kill.identical for kill in of_kind)
        steps = [k.next_s for k in of_kind if k.next_s is not None]
        caught = [k.caught_up_s for k in of_kind if k.caught_up_s is not None]
        stalls = [k.stall_s for k in of_kind if k.stall_s is not None]
        numbers = [quantile(steps, 0.5), quantile(steps, 0.9), quantile(steps, 1.0)]
        numbers += [quantile(caught, 0.5), quantile(stalls, 0.5), quantile(stalls, 1.0)]
        counts = [str(len(of_kind)), str(good), str(len(of_kind) - good)]
        rows.append([kind, *counts, *(f"{n:.2f}" for n in numbers)])
    return table(rows)


class Chaos:
    """All runs of one call.

    Args:
        base: where the jobs' folders go.
        epochs: of a run.
        sleep_s: the least time of a step.
        hang_s: so long without a step is a hang.
        keep: keep all folders.
    """

    def __init__(
        self, base: Path, epochs: int, sleep_s: float, hang_s: float = HANG_S, keep: bool = False
    ) -> None:
        self.base, self.keep, self.hang_s = base, keep, hang_s
        self.epochs, self.sleep_s = epochs, sleep_s
        self.steps = epochs * STEPS_PER_EPOCH
        self.digests: list[str] = []
        self.references: dict[str, Outcome] = {}
        self.runs: list[Outcome] = []

    @property
    def kills(self) -> list[Kill]:
        """All so far."""
        return [kill for run in self.runs for kill in run.kills]

    def undisturbed(self, engine: str) -> bool:
        """Runs without kills; whether all is well, and as on the other engine."""
        sleep_s = self.sleep_s if engine == "ray" else 0.0
        job = Job(self.base / engine, config(self.epochs, sleep_s), engine)
        outcome = Killer(job, click.echo, self.hang_s).undisturbed()
        self.references[engine] = outcome
        self.digests = self.digests or outcome.digests
        if outcome.steps != self.steps:
            outcome.problems.append(f"{outcome.steps} steps, not {self.steps}")
        if outcome.digests != self.digests:
            outcome.problems.append("other weights than on the other engine")
        self._end(job, outcome)
        weights = " ".join(digest[:8] for digest in outcome.digests)
        words = "; ".join(outcome.problems) or f"weights {weights}"
        click.echo(f"undisturbed, {engine}: {outcome.steps} steps, {outcome.seconds} s; {words}")
        return not outcome.problems

    def disturbed(self, kills: int, targets: Sequence[str], seed: int, in_turn: bool) -> None:
        """One run with kills."""
        number = len(self.runs) + 1
        job = Job(self.base / f"r{number}", config(self.epochs, self.sleep_s))
        killer = Killer(job, click.echo, self.hang_s)
        outcome = killer.disturbed(number, self.steps, kills, targets, f"{seed}-{number}", in_turn)
        self.runs.append(outcome)
        if outcome.digests and outcome.digests != self.digests:
            outcome.problems.append("other weights")
        if not outcome.kills:
            outcome.problems.append("nothing could be killed")
        for kill in outcome.kills:
            kill.identical = not outcome.problems
        self._end(job, outcome)
        words = "; ".join(outcome.problems) or "identical"
        waits = ", ".join("-" if k.next_s is None else f"{k.next_s:.2f}" for k in outcome.kills)
        click.echo(
            f"run {number}: {len(outcome.kills)} kills, {len(outcome.failures)} failures in its "
            f"summary, {outcome.seconds} s; to the next step {waits} s; {words}"
        )

    def _end(self, job: Job, outcome: Outcome) -> None:
        if outcome.problems:
            click.echo(f"  log: {job.log}")
        elif not self.keep:
            job.remove()

    def tree(self) -> dict[str, Any]:
        """All of it as plain values."""
        references = {engine: run.tree() for engine, run in self.references.items()}
        runs = [run.tree() for run in self.runs]
        return {"digests": self.digests, "undisturbed": references, "runs": runs}


@click.command(help=__doc__)
@click.option("--kills", default=100, show_default=True, type=click.IntRange(0))
@click.option("--per-run", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--targets",
    default="any",
    show_default=True,
    callback=parse_targets,
    help=f"Comma-separated: {', '.join(KINDS)}, any. A kind is drawn first, then one of it.",
)
@click.option("--in-turn", is_flag=True, help="Kill one of each of --targets in turn.")
@click.option("--epochs", default=18, show_default=True, help="Of 21 steps each.")
@click.option("--sleep", "sleep_s", default=0.05, show_default=True, help="Least s of a step.")
@click.option("--hang", "hang_s", default=HANG_S, show_default=True, help="s without a step.")
@click.option("--reference", type=click.Choice(["both", "ray", "local"]), default="both")
@click.option("--keep", is_flag=True, help="Keep the folders of good runs too.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of all kills.")
def main(
    kills: int,
    per_run: int,
    seed: int,
    targets: list[str],
    in_turn: bool,
    epochs: int,
    sleep_s: float,
    hang_s: float,
    reference: str,
    keep: bool,
    out: Path | None,
) -> None:
    """See the module."""
    chaos = Chaos(Path(tempfile.mkdtemp(prefix="chaos-")), epochs, sleep_s, hang_s, keep)
    click.echo(f"in {chaos.base}; {chaos.steps} steps a run, seed {seed}")
    engines = ["ray", "local"] if reference == "both" else [reference]
    good = all(chaos.undisturbed(engine) for engine in engines)
    while good and (left := kills - len(chaos.kills)) > 0:
        chaos.disturbed(min(per_run, left), targets, seed, in_turn)
        if out is not None:
            out.write_text(json.dumps(chaos.tree(), indent=1) + "\n")
        last = chaos.runs[-_FAILED_RUNS:]
        if len(last) == _FAILED_RUNS and all(run.problems for run in last):
            click.echo(f"{_FAILED_RUNS} runs in a row failed; no more are tried")
            break
    if out is not None:
        out.write_text(json.dumps(chaos.tree(), indent=1) + "\n")
    if chaos.kills:
        click.echo(kill_table(chaos.kills))
        seconds = statistics.median(run.seconds for run in chaos.runs)
        click.echo(f"{len(chaos.runs)} runs, median {seconds:.1f} s a run")
    if not any(chaos.base.iterdir()):
        chaos.base.rmdir()
    sys.exit(0 if good and not any(run.problems for run in chaos.runs) else 1)


if __name__ == "__main__":
    main()
