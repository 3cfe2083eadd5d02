"""What Ray exports of a run, as Prometheus reads it, and the dashboard that shows it."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import scpl_ray
from scpl_ray.callbacks import to_prometheus
from scpl_ray.config import load_config
from scpl_ray.engine import cluster
from scpl_ray.exits import ExitResult
from scpl_ray.report import Reporter
from tests.helpers import small_config

DASHBOARD = Path(__file__).parents[2] / "cluster/grafana-dashboard.json"
_HISTOGRAM = ("_bucket", "_count", "_sum")


class Scraper(Reporter):
    """Reads the metrics as soon as the test split was scored, while the job's Ray is there."""

    def __init__(self) -> None:
        self.url = ""
        self.samples: list[Sample] = []
        self.notices: list[str] = []

    def info(self, text: str) -> None:
        if "Prometheus" in text:
            self.url = text.split()[-1]

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def evaluated(self, split: str, epoch: int, exits: list[ExitResult]) -> None:
        deadline = time.monotonic() + 30
        while self.url and split == "test" and time.monotonic() < deadline:
            time.sleep(0.5)
            with urllib.request.urlopen(self.url, timeout=10) as answer:
                text = answer.read().decode()
            found = [s for f in text_string_to_metric_families(text) for s in f.samples]
            self.samples = [s for s in found if s.name.startswith("ray_scpl_ray_")]
            # The callbacks hear of the test split after this listener.
            if any(s.labels.get("split") == "train" for s in self.samples):
                return


@pytest.fixture(scope="module")
def scraped(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Scraper]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        output = {"output__prometheus": True, "output__report_every_s": 0.2}
        scraper = Scraper()
        tree = small_config(texts, tmp_path_factory.mktemp("runs"), model__layers=1, **output)
        return scpl_ray.train(tree, reporter=scraper), scraper


def test_the_figures_are_there(scraped: tuple[Any, Scraper]) -> None:
    run, scraper = scraped
    assert scraper.notices == []
    by_name: dict[str, list[Sample]] = {}
    for sample in scraper.samples:
        by_name.setdefault(sample.name.removeprefix("ray_"), []).append(sample)
    jobs = {sample.labels["run"] for sample in scraper.samples}
    assert len(jobs) == 1 and jobs.pop().startswith("run-")
    (step,) = by_name["scpl_ray_step"]
    assert step.value == run.summary["steps"]
    assert {s.labels["stage"] for s in by_name["scpl_ray_stage_loss"]} == {"1", "2"}
    shares = zip(
        sorted(by_name["scpl_ray_stage_busy_share"], key=lambda s: s.labels["stage"]),
        sorted(by_name["scpl_ray_stage_waiting_share"], key=lambda s: s.labels["stage"]),
        strict=True,
    )
    assert all(busy.value + waiting.value == pytest.approx(1.0) for busy, waiting in shares)
    scored = {
        int(s.labels["stage"]): s.value
        for s in by_name["scpl_ray_exit_accuracy"]
        if s.labels["split"] == "train"
    }
    assert scored == {r["stage"]: pytest.approx(r["train_accuracy"]) for r in run.summary["exits"]}
    (samples,) = by_name["scpl_ray_samples_total"]
    assert samples.value == 2 * run.summary["data"]["train"]


def test_the_dashboard_names_what_is_exported(scraped: tuple[Any, Scraper]) -> None:
    exported = {sample.name for sample in scraped[1].samples}
    text = DASHBOARD.read_text()
    named = set(re.findall(r"\bray_scpl_ray_\w+", text))
    assert named <= exported, "each name is there"
    families = {re.sub(rf"({'|'.join(_HISTOGRAM)})$", "", name) for name in exported}
    shown = {re.sub(rf"({'|'.join(_HISTOGRAM)})$", "", name) for name in named}
    assert families == shown, "each figure is shown"
    own = [to_prometheus.RUN_GAUGES, to_prometheus.STAGE_GAUGES, to_prometheus.EXIT_GAUGES]
    own += [to_prometheus.HISTOGRAMS]
    wanted = {f"ray_{name}" for names in own for name in names}
    wanted |= {f"ray_{name}_total" for name in to_prometheus.COUNTERS}
    assert families == wanted
    labels = {s.name: set(s.labels) for s in scraped[1].samples}
    for panel in json.loads(text)["panels"]:
        for target in panel["targets"]:
            (name,) = set(re.findall(r"\bray_scpl_ray_\w+", target["expr"])) - {
                "ray_scpl_ray_steps_planned"
            }
            used = set(re.findall(r"\b(\w+)\s*=~?\"", target["expr"]))
            used |= set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            used |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert used <= labels[name], (panel["title"], used)


@pytest.mark.parametrize(
    ("asked", "address", "exported"),
    [
        ("auto", None, False),
        ("auto", "local", False),
        ("auto", "10.0.0.1:6379", True),
        (True, None, True),
        (False, "10.0.0.1:6379", False),
    ],
)
def test_when_figures_are_exported(
    asked: Any, address: str | None, exported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = {"output": {"prometheus": asked}, "resources": {"address": address}}
    assert cluster.exports(load_config(config)) is exported


def test_the_local_engine_has_no_ray(texts: Path, tmp_path: Path) -> None:
    tree = small_config(texts, tmp_path, pipeline__engine="local", output__prometheus=True)
    scraper = Scraper()
    scpl_ray.train(tree, reporter=scraper)
    assert scraper.notices == [
        "output.prometheus has no effect with pipeline.engine=local: Ray exports them"
    ]
