"""`scpl-ray predict` as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from scpl_ray.early_exit import Rule
from scpl_ray.errors import ConfigError, DataError
from scpl_ray.predicting.answers import answers
from scpl_ray.predicting.output import COLUMNS, check_output, writer
from scpl_ray.predictor import Predictor
from tests.helpers import Fork, cli, run_job, small_config, write_texts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    write_texts(folder / "texts.jsonl")
    run_job(
        small_config(
            folder / "texts.jsonl",
            folder / "runs",
            pipeline__engine="local",
            name="try",
            train__epochs=1,
        )
    )
    (folder / "more.csv").write_text("id,said\n1,alpha beta\n2,\n3,xi nu mu\n")
    return folder


def test_texts_and_a_file(place: Path) -> None:
    """One call: labels, probabilities and exits are those of the predictor; one row is an error."""
    given = ("predict", "try", "zeta eta", "more.csv", "--text-column", "said", "--threshold", "0")
    result = cli(*given, "--json", cwd=place)
    assert result.returncode == 1, result.stderr
    assert "3 answered (exit 1: 3); 1 could not be read" in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(r["input"], r["file"], r["row"]) for r in rows] == [
        ("zeta eta", None, None),
        ("alpha beta", "more.csv", 1),
        ("", "more.csv", 2),
        ("xi nu mu", "more.csv", 3),
    ]
    assert rows[2]["error"] == "an empty text" and rows[2]["label"] is None
    predictor = Predictor(place / "runs/try", Rule(0.0))
    for row, found in zip(
        [rows[0], rows[1], rows[3]],
        predictor.texts(["zeta eta", "alpha beta", "xi nu mu"]),
        strict=True,
    ):
        first = found.probabilities[1]
        assert row["exit"] == 1 and row["error"] is None
        assert row["label"] == predictor.labels[first.index(max(first))]
        assert row["probability"] == pytest.approx(max(first), abs=1e-5)
        assert row["exits"] == [
            {"exit": 1, "label": row["label"], "probability": row["probability"]}
        ]


def test_lines_for_people_and_exit_0(place: Path) -> None:
    line, summary = (
        Fork("predict", "try", "alpha beta", "--exit", "2", cwd=place).end().splitlines()
    )
    assert line.split()[2:] == ["exit", "2", "alpha", "beta"]
    assert line.split()[0] in ("neg", "pos")
    assert summary == "1 answered (exit 2: 1)"


def test_temperatures_are_used_and_exported(place: Path) -> None:
    Fork("eval", "try", "--calibrate", cwd=place).end()
    try:
        warm = json.loads((place / "runs/try/temperatures.json").read_text())["exits"]
        said = Fork("predict", "try", "alpha beta", "--json", cwd=place).end()
        assert "exits are calibrated with" in said
        as_is = Fork("predict", "try", "alpha", "--no-temperatures", cwd=place).end()
        assert "calibrated" not in as_is
        predictor = Predictor(place / "runs/try")
        predictor.rule = Rule(2.0, temperatures={e["stage"]: e["temperature"] for e in warm})
        (wanted,) = predictor.texts(["alpha beta"])
        row = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        assert row["probability"] == pytest.approx(wanted.probability, abs=1e-5)
        Fork("export", "try", "--to", "huggingface", "--output", "card", cwd=place).end()
        again = Fork("predict", "card", "alpha beta", "--json", cwd=place).end()
        assert "exits are calibrated with card/config.json" in again
        other = json.loads(next(line for line in again.splitlines() if line.startswith("{")))
        assert other["probability"] == pytest.approx(row["probability"], abs=1e-5)
    finally:
        (place / "runs/try/temperatures.json").unlink()


def test_a_path_that_is_none(place: Path) -> None:
    run = Fork("predict", "try", "mroe.csv", "--output", "out.parquet", cwd=place)
    assert run.wait() == 2
    assert run.said.startswith("error: no file or folder 'mroe.csv'. Did you mean 'more.csv'?")
    assert len(run.said.splitlines()) == 1 and not list(place.glob("*out.parquet*"))


def test_a_file_that_breaks_off_leaves_no_output(place: Path) -> None:
    (place / "broken.csv").write_text("text\n" + "alpha beta\n" * 10_100 + '"never closed\n')
    predictor, written = Predictor(place / "runs/try"), 0
    with (
        pytest.raises(DataError, match=r"broken.csv' is not a readable csv file"),
        writer(place / "out.csv", predictor.labels) as write,
    ):
        for answer in answers(predictor, [str(place / "broken.csv")]):
            write(answer)
            written += 1
    assert written > 9000 and not list(place.glob("*out.csv*"))


def test_every_form_of_output_says_the_same(place: Path) -> None:
    predictor = Predictor(place / "runs/try")
    tables = {}
    for suffix in ("csv", "jsonl", "parquet"):
        path = place / f"said.{suffix}"
        with writer(path, predictor.labels) as write:
            for answer in answers(predictor, ["alpha, beta", str(place / "more.csv")], "said"):
                write(answer)
        if suffix == "csv":
            with path.open(newline="") as file:
                tables[suffix] = list(csv.DictReader(file))
        elif suffix == "jsonl":
            lines = path.read_text().splitlines()
            tables[suffix] = [{c: json.loads(line)[c] for c in COLUMNS} for line in lines]
        else:
            tables[suffix] = pq.read_table(path).to_pylist()
    assert len(tables["jsonl"]) == 4 and tables["jsonl"] == tables["parquet"]
    as_words = [{k: "" if v is None else str(v) for k, v in row.items()} for row in tables["jsonl"]]
    assert tables["csv"] == as_words
    assert not list(place.glob(".said*"))


@pytest.mark.parametrize(
    "output, words",
    [
        ("out.xlsx", "its extension must be one of .csv, .jsonl, .parquet"),
        ("nowhere/out.csv", "no folder 'nowhere'"),
        ("more.csv", "is one of the inputs"),
    ],
)
def test_outputs_that_cannot_be(place: Path, output: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_output(
            place / output if output == "more.csv" else Path(output), [str(place / "more.csv")]
        )


def test_images_through_the_command(tmp_path: Path) -> None:
    tree = small_config(
        Path("-"), tmp_path / "runs", pipeline__engine="local", name="digits", train__epochs=1
    )
    run_job(tree | {"data": {"source": "digits"}, "model": {"kind": "convnet", "channels": [8]}})
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20), "white").save(tmp_path / "in/a.jpg")
    (tmp_path / "in/b.png").write_text("no image")
    run = Fork("predict", "digits", "in", "--output", "out.jsonl", cwd=tmp_path)
    assert run.wait() == 1, run.said
    assert "1 answered (exit 1: 1); 1 could not be read; written to out.jsonl" in run.said
    good, bad = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert good["input"] == "in/a.jpg" and good["label"] in "0123456789"
    assert bad["input"] == "in/b.png" and "not a readable image" in bad["error"]
