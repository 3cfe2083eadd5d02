"""The predictor answers what the network's exits answer, and what cannot be read stands alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import scpl_ray
from scpl_ray.data.images import resized
from scpl_ray.early_exit import Rule, leave_early
from scpl_ray.errors import CheckpointError, ConfigError, DataError
from scpl_ray.exiting.temperatures import ExitTemperature, of_run, save
from scpl_ray.predicting.answers import answers, rule_of
from scpl_ray.predicting.inputs import find_sources
from scpl_ray.predicting.tables import TextTable
from scpl_ray.predictor import Prediction, Predictor, Refused
from tests.helpers import run_job, small_config, write_texts


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    texts = write_texts(folder / "texts.jsonl")
    for name, data, model in (
        ("texts", {"source": "file", "path": str(texts), "max_len": 16}, {}),
        ("digits", {"source": "digits"}, {"kind": "convnet", "channels": [8, 16]}),
    ):
        tree = small_config(texts, folder, pipeline__engine="local", name=name, train__epochs=1)
        run_job(tree | {"data": data} | ({"model": model} if model else {}))
    return folder


@pytest.fixture(scope="module")
def texts(runs: Path) -> Predictor:
    return Predictor(runs / "texts")


@pytest.fixture(scope="module")
def digits(runs: Path) -> Predictor:
    return Predictor(runs / "digits")


TEXTS = ["alpha beta gamma", "xi", "Nu, mu!", "zeta eta theta iota kappa"]


def save_digits(folder: Path, count: int) -> np.ndarray:
    """Writes real digits as PNG files, and returns them as training has them, [N, 1, 8, 8]."""
    folder.mkdir(parents=True)
    pixels = np.round(load_digits().images[:count] * (255 / 16)).astype(np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return pixels[:, None]


def test_without_a_rule_the_last_exit_answers(texts: Predictor) -> None:
    with torch.no_grad():
        every = [e.softmax(1) for e in texts.network(texts.network.encode(TEXTS))]
    for i, found in enumerate(texts.texts(TEXTS)):
        assert isinstance(found, Prediction)
        assert found.stage == texts.network.exits[-1]
        assert found.index == int(every[-1][i].argmax())
        assert found.label == texts.network.info.label_names[found.index]
        assert found.probability == pytest.approx(float(every[-1][i].max()), abs=1e-6)
        assert list(found.probabilities)[-1] == found.stage
        assert found.probabilities[found.stage] == pytest.approx(every[-1][i].tolist(), abs=1e-6)


def test_by_a_rule_each_leaves_where_leave_early_says(runs: Path, texts: Predictor) -> None:
    inputs = texts.network.encode(TEXTS)
    with torch.no_grad():
        first = texts.network(inputs)[0].softmax(1).amax(1)
    rule = Rule(float(first.median()), temperatures={2: 0.5})
    expected = leave_early(texts.network, inputs, rule)
    assert len(set(expected.stages.tolist())) > 1
    found = [f for f in Predictor(runs / "texts", rule).texts(TEXTS) if isinstance(f, Prediction)]
    assert [f.stage for f in found] == expected.stages.tolist()
    for own, logits in zip(found, expected.logits, strict=True):
        assert own.probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-6)
        assert list(own.probabilities)[-1] == own.stage, "no exit behind it was asked"


def test_an_unreadable_text_does_not_disturb_the_others(texts: Predictor) -> None:
    given = ["alpha beta gamma", "", "...", None, "xi", "  "]
    found = texts.texts(given)  # type: ignore[arg-type]
    assert [isinstance(f, Refused) for f in found] == [False, True, True, True, False, True]
    alone = texts.texts(TEXTS[:1])[0]
    assert isinstance(found[0], Prediction) and isinstance(alone, Prediction)
    assert found[0].label == alone.label
    assert found[0].probability == pytest.approx(alone.probability, abs=1e-5)
    assert isinstance(found[2], Refused) and "no word" in found[2].error
    assert all(isinstance(f, Refused) for f in texts.texts(["", ""])), "also where none is left"


def test_images_are_prepared_as_in_training(digits: Predictor, tmp_path: Path) -> None:
    pixels = save_digits(tmp_path / "d", 20)
    files = sorted((tmp_path / "d").glob("*.png"))
    # The same picture in colour; and one that training would have had to bring to size.
    first = Image.open(files[0])
    large = first.resize((80, 80), Image.Resampling.BICUBIC)
    pixels = np.concatenate([pixels, pixels[:1], resized(np.asarray(large)[None, None], 8)])
    mean, deviation = digits.network.info.pixel_stats
    inputs = torch.tensor((pixels.astype(np.float32) / 255 - mean[0]) / deviation[0])
    with torch.no_grad():
        expected = digits.network(inputs)[-1].softmax(1)
    given = [*files, first.convert("RGB"), large]
    found = [f for f in digits.images(given) if isinstance(f, Prediction)]
    for own, row in zip(found, expected, strict=True):
        assert own.probabilities[own.stage] == pytest.approx(row.tolist(), abs=1e-5)


def test_an_unreadable_image_stands_alone(digits: Predictor, tmp_path: Path) -> None:
    save_digits(tmp_path / "d", 1)
    good, bad, deep = tmp_path / "d/000.png", tmp_path / "bad.png", tmp_path / "deep.png"
    bad.write_bytes(good.read_bytes()[:40])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    found = digits.images([bad, good, deep, tmp_path / "none.png"])
    assert [isinstance(f, Refused) for f in found] == [True, False, True, True]
    assert isinstance(found[2], Refused) and "more than 8 bits" in found[2].error


def test_a_network_takes_what_it_was_trained_on(texts: Predictor, digits: Predictor) -> None:
    with pytest.raises(DataError, match="trained on images .digits.; it does not take texts"):
        digits.texts(["alpha"])
    with pytest.raises(DataError, match="does not take images"):
        texts.images(["a.png"])


def test_rules_of_options(texts: Predictor) -> None:
    network = texts.network
    assert rule_of(network, exit=2).exits == frozenset({2})
    assert rule_of(network, 0.9, temperatures={1: 2.0}) == Rule(0.9, temperatures={1: 2.0})
    for options, words in (
        ({"exit": 9}, "--exit: stage 9 has no exit; allowed: 1, 2"),
        ({"exit": 1, "threshold": 0.5}, "exclude each other"),
        ({"threshold": 1.5}, "goes from 0 to 1"),
        ({"threshold": 0.7, "measure": "entropy"}, "goes from 0 to 0.6931 nats"),
    ):
        with pytest.raises(ConfigError, match=words):
            rule_of(network, **options)


def test_the_temperatures_of_a_run_are_used_also_from_its_exported_folder(
    runs: Path, tmp_path: Path
) -> None:
    """A run's copy is calibrated; the folder that is made of it holds the temperatures."""
    run = shutil.copytree(runs / "texts", tmp_path / "warm")
    network = scpl_ray.load(run)
    last = network.exits[-1]
    fitted = [
        ExitTemperature(
            stage=last, temperature=0.25, loss_before=1, loss_after=1, ece_before=0, ece_after=0
        )
    ]
    save(run, fitted, 12)
    with torch.no_grad():
        logits = network(network.encode(TEXTS))[-1]
    scpl_ray.export(run, "huggingface", tmp_path / "out")
    for place in (run, tmp_path / "out"):
        assert of_run(place).values == {last: 0.25}
        assert of_run(place, False).values == {}
        for answer, row in zip(scpl_ray.predict(place, *TEXTS), logits, strict=True):
            expected = float((row / 0.25).softmax(0).max())
            assert answer.row()["probability"] == pytest.approx(expected, abs=1e-5)
    assert f"temperatures={{{last}: 0.25}}" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(CheckpointError, match="eval .* --calibrate"):
        of_run(runs / "texts", True)


def test_python_streams_too(runs: Path, texts: Predictor) -> None:
    found = list(scpl_ray.predict(runs / "texts", "alpha", runs / "texts.jsonl", exit=2))
    assert len(found) == 151 and {a.row()["exit"] for a in found} == {2}
    assert [a.item.row for a in found[:3]] == [0, 1, 2]
    with pytest.raises(CheckpointError, match="no run at"):
        scpl_ray.predict(runs / "text", "alpha")


@pytest.mark.parametrize(
    "name, content, rows",
    [
        ("a.csv", "id,text\n1,good film\n2,\n3,NA\n4,12\n", ["good film", "", "NA", "12"]),
        ("marked.csv", "\ufefftext,id\nhello,1\n", ["hello"]),
        ("a.tsv", 'text\tid\nx, y\t1\n"two\nlines"\t2\n', ["x, y", "two\nlines"]),
        ("a.jsonl", '{"text":"x"}\n{"text":null}\n{"text":5}\n', ["x", "", 5]),
        ("a.json", '[{"text":"x"},{"text":"y"}]', ["x", "y"]),
        ("a.txt", "one\n\nthree\r\nfour", ["one", "", "three", "four"]),
        ("a[1] *.csv", "text\nx\n", ["x"]),
    ],
)
def test_files_of_texts(tmp_path: Path, name: str, content: str, rows: list[object]) -> None:
    (tmp_path / "a other.csv").write_text("text\nof another file\n")
    (tmp_path / name).write_text(content, encoding="utf-8")
    table = TextTable(str(tmp_path / name), "text")
    assert list(table) == rows
    assert list(table) == rows, "again"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "txt,label\nx,1\n", "no column 'text' .* columns there: txt, label. .* 'txt'"),
        ("a.csv", "text\n", "has no rows"),
        ("a.csv", "", "is empty"),
        ("a.csv", "text,text\nx,y\n", "two columns are named 'text'"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
    ],
)
def test_bad_files_of_texts(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        TextTable(str(tmp_path / name), "text")


def test_a_file_is_read_in_a_stream(texts: Predictor, tmp_path: Path) -> None:
    """The first answers are there before the damage at the end is met."""
    path = tmp_path / "long.csv"
    line = "alpha beta gamma delta epsilon zeta eta theta iota kappa\n"
    path.write_text("text\n" + line * 30_000 + '"never closed\n')
    stream = answers(texts, [str(path)])
    first = [next(stream) for _ in range(1000)]
    assert len({a.result.label for a in first if isinstance(a.result, Prediction)}) == 1
    with pytest.raises(DataError, match=r"long.csv' is not a readable csv file"):
        list(TextTable(str(path), "text"))


def test_what_an_argument_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("films.csv").write_text("text\nx\n")
    save_digits(Path("pictures/deep"), 2)
    Path("pictures/notes.md").write_text("no image")

    def values(kind: str, *arguments: str, as_text: bool = False) -> list[object]:
        sources = find_sources(arguments, kind, "text", as_text)
        return [item.value for source in sources for item in source()]

    assert values("text", "a film", "good/bad acting", "films.csv") == [
        *("a film", "good/bad acting", "x"),
    ]
    assert values("text", "films.csv", "a/b", as_text=True) == ["films.csv", "a/b"]
    long = "word " * 5000
    assert values("text", long) == [long]
    assert values("image", "pictures") == ["pictures/deep/000.png", "pictures/deep/001.png"]
    for kind, argument, words in (
        ("text", "filns.csv", "no file or folder 'filns.csv'. Did you mean 'films.csv'"),
        ("text", "./nothing", "no file or folder"),
        ("text", "pictures", "is a folder, and the network was trained on texts"),
        ("text", "pictures/notes.md", "a file .md"),
        ("image", "pictires", "Did you mean 'pictures'"),
        ("image", "films.csv", "trained on images"),
    ):
        with pytest.raises(DataError, match=words):
            values(kind, argument)
    Path("empty").mkdir()
    with pytest.raises(DataError, match="no image in the folder 'empty'"):
        values("image", "empty")
