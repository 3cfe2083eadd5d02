"""Trains for a long time while processes are killed, and watches the memory of every process.

    python -m tests.chaos.soak --minutes 30 --every 30 --seed 0 --png soak.png

A kill comes every 30 s on average (exponentially distributed, whether or not the job has recovered
from the last one). Every 5 s the memory of all processes is sampled by role, and processes, actors,
files in the run folder and the object store are counted. After the given time the job is stopped
by `scpl-ray stop`. Printed at the end: for each role the memory after 20 % of the time and at the
end, the slope without the first 20 % (of the medians of minutes, for a process that was just made
is smaller), and whether it is flat: grown by no more than 5 %, or 10 MiB. Then the weights are
compared with those of the local engine, undisturbed, after as many steps. Exit code 1 if they
differ, if the job failed or left something behind, or if a role's memory is not flat; of Ray's own
processes (gcs, raylet, other) growth is only said.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from tests.chaos.__main__ import kill_table, parse_targets
from tests.chaos.job import NAME, STEPS_PER_EPOCH, Job, config
from tests.chaos.plot import check, draw
from tests.chaos.progress import wrong_steps
from tests.chaos.run import END_AFTER_KILL_S, HANG_S, Hung, Killer, measure
from tests.chaos.samples import Sample, take
from tests.chaos.stats import KINDS, flatness, table

_SAMPLE_S = 5.0
_STOP_S = 120.0
_RAYS = ("gcs", "raylet", "other")


def memory_table(samples: Sequence[Sample]) -> tuple[str, list[str]]:
    """What each role used over time; and the roles of ours whose memory is not flat."""
    rows = [["memory (USS), MiB", "at 20 %", "at the end", "MiB/min", ""]]
    series: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        for role, mib in sample.uss.items():
            series.setdefault(role, []).append((sample.at, mib))
        store = sample.object_store_mib
        if store:
            series.setdefault("object store", []).append((sample.at, store))
        if sample.processes:
            series.setdefault("processes (a number)", []).append((sample.at, sample.processes))
            series.setdefault("driver's open files", []).append((sample.at, sample.driver_fds))
    growing = []
    for role, points in series.items():
        judged = flatness(points)
        if judged is None:
            rows.append([role, "-", "-", "-", f"{len(points)} samples only"])
            continue
        numbers = [f"{judged.early:.1f}", f"{judged.late:.1f}", f"{judged.slope:+.3f}"]
        own = role not in _RAYS
        words = "flat" if judged.flat else "GROWS" if own else "grows (Ray's own)"
        rows.append([role, *numbers, words])
        growing += [role] if own and not judged.flat else []
    return table(rows), growing


class Soak:
    """One long run.

    Args:
        job: not yet started.
        targets: kinds to kill.
        every_s: seconds between kills on average.
        seed: of all chance.
    """

    def __init__(self, job: Job, targets: Sequence[str], every_s: float, seed: int) -> None:
        self.job, self.targets, self.every_s = job, targets, every_s
        self.draw = random.Random(seed)
        self.killer = Killer(job, click.echo, HANG_S)
        self.samples: list[Sample] = []
        self.began_at = 0.0
        self.problems: list[str] = []

    def train(self, seconds: float, save: Callable[[], None]) -> None:
        """Trains, kills and samples, then stops the job; `save` is called with every sample."""
        self.job.start(resume=False)
        try:
            while not self.killer.progress.steps:
                if not self.killer.look():
                    self.problems.append("it ended before the first step")
                    return
            self._disturb(seconds, save)
            self._stop()
        except Hung as hung:
            self.problems.append(str(hung))
        finally:
            self.job.end_driver()

    def _disturb(self, seconds: float, save: Callable[[], None]) -> None:
        begun, self.began_at = time.monotonic(), time.time()
        sample_at, kill_at = begun, begun + self._pause()
        while (now := time.monotonic()) < begun + seconds:
            if now >= sample_at:
                self.samples.append(take(self.job, begun, self.killer.progress.last))
                sample_at += _SAMPLE_S * max(1, math.ceil((now - sample_at) / _SAMPLE_S))
                save()
            if self.every_s and now >= kill_at:
                self.killer.kill(self.targets, self.draw, "time")
                kill_at = now + self._pause()
            if not self.killer.look():
                self.problems.append("it ended by itself")
                return

    def _pause(self) -> float:
        return self.draw.expovariate(1 / self.every_s) if self.every_s else math.inf

    def _stop(self) -> None:
        """Asks for the end as a user does, again while the job is between two drivers."""
        deadline = time.monotonic() + _STOP_S
        while self.killer.look():
            if time.monotonic() > deadline:
                self.problems.append(f"it did not stop within {_STOP_S:g} s")
                return
            line = [sys.executable, "-m", "scpl_ray", "stop", NAME]
            env, cwd = self.job.environment(), self.job.folder
            subprocess.run(line, env=env, cwd=cwd, capture_output=True, timeout=_STOP_S)

    def judge(self) -> None:
        """Checks what the job has left, and its weights."""
        measure(self.killer.outcome.kills, self.killer.progress)
        summary = self.job.summary()
        if summary.get("status") not in ("stopped", "finished"):
            self.problems.append(f"status {summary.get('status', 'unknown: no summary')}")
        else:
            steps = summary["steps"]
            wrong = wrong_steps(self.job.metrics, steps)
            self.problems += [wrong] if wrong else []
            click.echo(f"{steps} steps; the same on the local engine, undisturbed ...")
            reference = self._reference(steps)
            self.problems += [reference] if reference else []
            for kill in self.killer.outcome.kills:
                kill.identical = not reference
        left = self.job.leftovers(END_AFTER_KILL_S)
        self.problems += [f"left behind: {thing}" for thing in left]

    def _reference(self, steps: int) -> str:
        line = [sys.executable, "-m", "tests.chaos.reference", "job.yaml", str(steps)]
        env, cwd = self.job.environment(), self.job.folder
        done = subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True)
        if done.returncode:
            return f"the reference run failed: {done.stderr[-500:]}"
        found = json.loads(done.stdout.splitlines()[-1])
        if found == {"steps": steps, "digests": self.job.summary()["weights_sha256"]}:
            return ""
        return f"other weights or steps than the reference: {found}"


@click.command(help=__doc__)
@click.option("--minutes", default=30.0, show_default=True, help="Of training.")
@click.option("--every", "every_s", default=30.0, show_default=True, help="s a kill; 0: none.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--targets",
    default="stage,data,mailbox",
    show_default=True,
    callback=parse_targets,
    help=f"Comma-separated: {', '.join(KINDS)}, any.",
)
@click.option("--sleep", "sleep_s", default=0.1, show_default=True, help="Least s of a step.")
@click.option("--keep", is_flag=True, help="Keep the job's folder.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of it all.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="The picture.")
def main(
    minutes: float,
    every_s: float,
    seed: int,
    targets: list[str],
    sleep_s: float,
    keep: bool,
    out: Path | None,
    png: Path | None,
) -> None:
    """See the module."""
    if png is not None:
        try:
            check()
        except ImportError as error:
            raise click.ClickException(str(error)) from None
    base = Path(tempfile.mkdtemp(prefix="chaos-"))
    epochs = math.ceil(1.5 * minutes * 60 / sleep_s / STEPS_PER_EPOCH) + 5  # never reached
    job = Job(base / "soak", config(epochs, sleep_s, changes=False))
    soak = Soak(job, targets, every_s, seed)
    kills = soak.killer.outcome.kills

    def save() -> None:
        if out is not None:
            tree = {"samples": [asdict(s) for s in soak.samples], "problems": soak.problems}
            tree |= {"kills": [asdict(k) for k in kills], "began_at": soak.began_at}
            out.write_text(json.dumps(tree) + "\n")

    click.echo(f"in {base}, for {minutes:g} min, seed {seed}")
    soak.train(minutes * 60, save)
    soak.judge()
    words, growing = memory_table(soak.samples)
    soak.problems += [f"{role}: its memory grows" for role in growing]
    save()
    if png is not None and soak.samples:
        draw(png, soak.samples, kills, soak.began_at)
    click.echo(words)
    if kills:
        click.echo(kill_table(kills))
    click.echo("; ".join(soak.problems) or "identical, and flat")
    job.end()
    if soak.problems:
        click.echo(f"log: {job.log}")
    elif not keep:
        job.remove()
        base.rmdir()
    sys.exit(1 if soak.problems else 0)


if __name__ == "__main__":
    main()
