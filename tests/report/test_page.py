"""`scpl-ray report`: one page that holds all that it shows, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import scpl_ray
from scpl_ray.errors import CheckpointError, ConfigError
from scpl_ray.report import Reporter
from scpl_ray.reporting.facts import marks_of
from scpl_ray.reporting.history import read_history
from scpl_ray.reporting.page import write_report
from scpl_ray.reporting.reading import read_told
from tests.helpers import cli, small_config, write_texts

_VOID = {"meta", "br", "img", "link", "hr", "input"}
_HOSTILE = "<script>alert(1)</script>\"'$\\frac{$&"


class Page(HTMLParser):
    """Reads a page strictly: each tag that opens is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self) -> list[float]:
        return [float(a["value"] or "nan") for tag, a in self.tags if tag == "data"]

    def pictures(self) -> list[str]:
        return [str(a["src"]) for tag, a in self.tags if tag == "img"]

    def all_words(self) -> str:
        return " ".join(self.words)


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one grows and shrinks, with a timeline; one is of another method."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_texts(folder / "texts.jsonl")
    moments = {"elastic__grow_at": {"epoch": [1]}, "elastic__shrink_at": {"epoch": [2]}}
    local = {"pipeline__engine": "local", "train__epochs": 3}
    grown = {"name": "grown", "elastic__start_stages": 2, "output__trace": True} | moments
    for changes in (grown, {"name": "plain", "method": "ee"}):
        scpl_ray.train(small_config(data, folder, **local, **changes), reporter=Reporter())
    return folder


def test_its_figures_are_those_of_the_summary(runs: Path) -> None:
    page = page_of(write_report([runs / "grown"]))
    summary = json.loads((runs / "grown/summary.json").read_text())
    found = page.values()
    for row in summary["exits"]:
        for key, value in row.items():
            if key != "stage" and value is not None:
                assert value in found, key
    assert summary["steps"] in found and summary["samples_per_second"] in found
    words = page.all_words()
    for row in summary["exits"]:
        assert f"{100 * row['test_accuracy']:.2f} %" in words
    step = str(summary["grown"][0]["step"])
    assert "stage 3 joined" in words and "stage 3 left" in words and step in page.words
    assert summary["versions"]["torch"] in words and summary["machine"]["platform"] in words
    assert "elastic.start_stages" in words and "name: grown" in words
    # accuracy, losses, shares, timeline; the local engine has no memory of each stage.
    assert len(page.pictures()) == 4
    assert sum(p.startswith("data:image/png") for p in page.pictures()) == 1


def test_it_loads_nothing_and_runs_nothing(runs: Path) -> None:
    page = page_of(write_report([runs / "grown", runs / "plain"], runs / "both.html"))
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "link", "object", "base", "form")
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in ("href", "srcset", "action")
            assert key != "src" or str(value).startswith("data:image/")
    without = re.sub(r'src="data:[^"]*"', "", page.text)
    assert not re.search(r"https?://|url\(|@import|//[a-z]", without)
    policy = [a for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_runs_side_by_side(runs: Path) -> None:
    page = page_of(write_report([runs / "grown", runs / "plain"], runs / "both.html"))
    words = page.all_words()
    assert "2 runs side by side" in words and "speed-up" in words
    assert "method" in page.words and "dascpl" in page.words and "ee" in page.words
    plain = json.loads((runs / "plain/summary.json").read_text())["exits"]
    assert f"{100 * plain[-1]['test_accuracy']:.2f}" in page.words
    assert "This run has none: train with --trace" in words


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoint", "report.html"))
    return to


def change(path: Path, **changes: Any) -> None:
    loads, dumps = (
        (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    )
    path.write_text(dumps(loads(path.read_text()) | changes))


def test_hostile_names_are_words(runs: Path, tmp_path: Path) -> None:
    run = copy_of(runs / "grown", tmp_path / "hostile")
    change(run / "config.yaml", name=_HOSTILE, method=_HOSTILE)
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"][0] = [_HOSTILE]
    summary["grown"][0] |= {"reason": _HOSTILE, "layers": [_HOSTILE]}
    summary["given_up"] = [{"kind": "grow", "state": _HOSTILE, "by": "x", "text": _HOSTILE}]
    summary["failures"] = [{"who": _HOSTILE, "step": 3, "cause": _HOSTILE, "seconds": 0.5}]
    summary["data"] |= {"notice": _HOSTILE, "name": _HOSTILE, "source": _HOSTILE}
    summary["versions"][_HOSTILE] = _HOSTILE
    change(run / "summary.json", **summary)
    (run / "log.txt").write_text(f"{_HOSTILE}\n</pre>{_HOSTILE}")
    for given in ([run], [run, runs / "plain"]):
        page = page_of(write_report(given, tmp_path / "page.html"))
        assert "<script" not in page.text
        assert {tag for tag, _ in page.tags}.isdisjoint({"script", "frac"})
        # In the log two; as name, method, layer, reason, notice, ... each at least once.
        assert page.all_words().count(_HOSTILE) >= 10


def test_a_run_that_has_not_ended(runs: Path, tmp_path: Path) -> None:
    run = copy_of(runs / "grown", tmp_path / "killed")
    (run / "summary.json").unlink()
    (run / "trace.png").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')
    page = page_of(write_report([run]))
    words = page.all_words()
    assert "This run is not finished." in words and "trace.json in its folder" in words
    assert "Not recorded yet: the run has no summary." in words
    grown = json.loads((runs / "grown/summary.json").read_text())["grown"]
    assert marks_of(read_told(run)) == [(grown[0]["step"], "+3")]
    assert read_history(run).steps == read_history(runs / "grown").steps
    both = page_of(write_report([run, runs / "plain"], tmp_path / "both.html")).all_words()
    assert "Not scored yet, so not in the table: grown" in both


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("summary.json", "{", "summary.json: damaged, not JSON"),
        ("summary.json", "[]", "it holds a list"),
        ("summary.json", '{"exits": 3, "steps": 1}', "damaged: its files do not fit a run"),
        ("config.yaml", "a: [", "config.yaml: damaged, not YAML"),
        ("config.yaml", "model: 3", "damaged: its files do not fit a run"),
        ("metrics.jsonl", '{"kind": "step"}\n', "metrics.jsonl:1: not a line of a run's metrics"),
        ("metrics.jsonl", "x\n", "metrics.jsonl:1: damaged, not JSON"),
        ("metrics.jsonl", None, "no metrics.jsonl in it"),
        ("trace.png", "GIF", "trace.png: damaged"),
    ],
)
def test_damage_is_named(
    runs: Path, tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    run = copy_of(runs / "grown", tmp_path / "damaged")
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        write_report([run])
    assert not (run / "report.html").exists()


def test_the_command(runs: Path, tmp_path: Path) -> None:
    done = cli("report", "grown", "--output", tmp_path / "page.html", cwd=runs.parent)
    assert done.returncode == 2
    assert "no run at 'grown'" in done.stderr and "Traceback" not in done.stderr
    done = cli("report", runs / "grown", "--output", tmp_path / "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {tmp_path}/page.html\n"
    assert page_of(tmp_path / "page.html").pictures()


def test_a_page_that_cannot_be_written(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output: cannot write .*No such file"):
        write_report([runs / "grown"], tmp_path / "nowhere/page.html")
