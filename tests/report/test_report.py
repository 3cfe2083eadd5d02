"""What people see, drawn without a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

import scpl_ray
from scpl_ray.engine.base import Done
from scpl_ray.evaluate import ExitResult, fold
from scpl_ray.report import PlainReporter, Plan, Recent
from scpl_ray.schedule import Train
from scpl_ray.screen import LiveReporter, final_table
from scpl_ray.stage_facts import ExitScore, StageSpec, StageStats
from tests.helpers import small_config

SPECS = [
    StageSpec(1, ("embedding",), False),
    StageSpec(2, ("encoder.1", "encoder.2"), True),
]
PLAN = Plan("reviews", "dascpl, transformer, movie_snippets", SPECS, 5, 119)


def done(step: int) -> Done:
    stats = [
        StageStats(
            stage=s.number, step=step, loss=4.5 - s.number, contrastive=4.0, prediction=None,
            correct=32 if s.with_exit else None, samples=64, lonely_share=0.0, lr=1e-3,
            forward_s=0.03, update_s=0.03, memory_mib=612.0, waiting_s=0.02,
        )
        for s in SPECS
    ]  # fmt: skip
    return Done(Train(step, 0), stats=tuple(stats))


def test_recent_figures() -> None:
    recent = Recent(PLAN)
    for step in range(60):
        recent.add(0, done(step))
    row = recent.stage(2)
    assert (row.loss, row.accuracy, row.memory_mib) == (2.5, 0.5, 612.0)
    assert round(row.busy, 3) == 0.75
    assert recent.stage(1).accuracy is None
    assert recent.samples_per_second() > 0 and recent.eta_s() > 0


def test_live_screen_fits_80_columns_and_names_every_stage() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    reporter = LiveReporter(console)
    reporter.started(PLAN)
    for step in range(5):
        reporter.step(0, done(step))
    reporter.evaluated("validation", 0, [ExitResult(2, 0.75, 0.6, 100)])
    with console.capture() as capture:
        console.print(reporter.render())
    reporter.close()
    text = capture.get()
    for word in ("reviews", "epoch 1/5", "step 5/595", "samples/s", "ETA", "embedding",
                 "encoder.1 .. encoder.2", "50.0 %", "75.0 %", "25%", "612"):  # fmt: skip
        assert word in text, (word, text)


def test_plain_lines() -> None:
    out = io.StringIO()
    reporter = PlainReporter(out, every_s=0)
    reporter.notice("the Hub is gone")
    reporter.started(PLAN)
    reporter.step(0, done(0))
    reporter.evaluated("validation", 0, [ExitResult(2, 0.75, 0.6, 100)])
    text = out.getvalue()
    assert "!!! the Hub is gone" in text
    assert "epoch 1/5 step 1/595" in text and "[2] loss 2.500 acc 0.500 busy 75%" in text
    assert "epoch 1 validation accuracy: exit 2 0.750" in text


def test_samples_that_were_left_out_are_said_and_recorded(tmp_path: Path) -> None:
    lines = [{"text": "..." if i < 10 else f"word w{i}", "label": i % 2} for i in range(100)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = io.StringIO()
    tree = small_config(tmp_path / "t.jsonl", tmp_path / "runs", pipeline__engine="local")
    run = scpl_ray.train(tree, reporter=PlainReporter(out))
    assert run.summary["data"]["dropped"] == 10
    assert "!!! samples without a word after cleaning are left out: " in out.getvalue()


def test_scores_fold_by_exit() -> None:
    scores = [ExitScore(1, 0, 0, 0.0), ExitScore(2, 3, 4, 2.0), ExitScore(2, 1, 4, 6.0)]
    assert fold(scores) == [ExitResult(2, 0.5, 1.0, 8)]


def test_final_table_shows_missing_splits_as_a_dash() -> None:
    row = {"stage": 3, "train_accuracy": 0.9, "validation_accuracy": None,
           "test_accuracy": 0.8, "test_loss": 0.5}  # fmt: skip
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(final_table({"name": "reviews", "exits": [row]}))
    assert "90.0 %" in capture.get() and " - " in capture.get()
