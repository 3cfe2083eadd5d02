from __future__ import annotations

import time
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from scpl_ray.config.schema import DataConfig
from scpl_ray.data import hub
from scpl_ray.data.sources import SOURCES, load_raw
from scpl_ray.errors import DataError

ROWS = {"text": ["good one", "bad one"] * 30, "label": [1, 0] * 30}
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


def closed_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def test_every_named_source_is_there() -> None:
    assert set(SOURCES) == {
        "imdb", "ag_news", "dbpedia_14", "sst2", "rotten_tomatoes", "banking77", "emotion",
        "yelp_review_full", "movie_snippets", "digits", "mnist_5k", "file", "folder",
        "cifar10", "cifar100", "tiny_imagenet",
    }  # fmt: skip


def test_absent_hub_is_noticed_in_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed_hub(monkeypatch, tmp_path)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_raw(DataConfig(source="imdb", offline="none"), 0)
    assert time.monotonic() - start < 15
    for word in ("data.source", "'imdb'", "refused", "data.offline", "data.path"):
        assert word in str(caught.value)


def test_offline_source_takes_its_place_aloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed_hub(monkeypatch, tmp_path)
    raw = load_raw(DataConfig(source="imdb", offline="digits"), 0)
    assert raw.name == "digits"
    assert "cannot be reached" in raw.notice and "digits INSTEAD OF imdb" in raw.notice


def test_silence_is_bounded_by_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        start = time.monotonic()
        assert "timed out" in hub.why_unreachable(0.3)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("source", sorted(hub.HUB_SETS))
def test_columns_and_splits_of_every_hub_set(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code, with the Hub's answer replaced by tables of the same columns."""
    known = hub.HUB_SETS[source]
    asked = []

    def answer(repo: str, subset: str | None, split: str) -> Dataset:
        asked.append((repo, subset, split))
        columns = {known.text: ROWS["text"], known.label: ROWS["label"]}
        types = {known.text: Value("string"), known.label: ClassLabel(names=["neg", "pos"])}
        return Dataset.from_dict(columns, features=Features(types))

    monkeypatch.setattr("datasets.load_dataset", answer)
    monkeypatch.setattr(hub, "why_unreachable", lambda timeout: "")
    raw = load_raw(DataConfig(source=source), 0)
    assert set(raw.splits) == {"train", "validation", "test"}
    assert raw.label_names == ("neg", "pos") and not raw.notice
    assert {a[0] for a in asked} == {known.repo}
    if source == "sst2":
        assert [a[2] for a in asked] == ["train", "validation"], "its test labels are hidden"


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "saved", "saved_splits"])
def test_user_files_of_every_form(form: str, tmp_path: Path) -> None:
    table = Dataset.from_dict(ROWS, features=FEATURES)
    path = tmp_path / f"reviews.{form}"
    if form in ("csv", "tsv"):
        table.to_csv(str(path), sep="\t" if form == "tsv" else ",", index=False)
    elif form == "jsonl":
        table.to_json(str(path))
    elif form == "parquet":
        table.to_parquet(str(path))
    elif form == "saved":
        table.save_to_disk(str(path))
    else:
        DatasetDict(train=table, test=table).save_to_disk(str(path))
    raw = load_raw(DataConfig(source="file", path=str(path)), 0)
    sizes = {name: len(s.labels) for name, s in raw.splits.items()}
    test = 60 if form == "saved_splits" else 12
    train = 60 if form == "saved_splits" else 48
    assert sizes == {"test": test, "validation": round(train / 10 / 2) * 2, "train": sizes["train"]}
    assert sum(sizes.values()) == train + test
    for text, label in zip(raw.splits["train"].samples, raw.splits["train"].labels, strict=True):
        assert (text == "good one") == (label == 1)
    named = form in ("parquet", "saved", "saved_splits")
    assert raw.label_names == (("neg", "pos") if named else ("0", "1"))


def test_labels_are_words_or_any_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,stars\n" + "x y,7\nz,-3\n" * 20)
    raw = load_raw(
        DataConfig(path=str(tmp_path / "a.csv"), text_column="body", label_column="stars"), 0
    )
    assert raw.label_names == ("-3", "7")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "file"}, ["data.path", ".csv"]),
        ({"source": "imdb", "offline": "imbd"}, ["data.offline", "'imbd'"]),
        ({"source": "imdb", "offline": "ag_news"}, ["data.offline", "'ag_news'", "movie_snippets"]),
        ({"path": "here.xlsx"}, ["data.path", "here.xlsx", ".csv"]),
        ({"path": "folder"}, ["data.path", "folder", "save_to_disk"]),
        ({"path": "a.csv", "test_path": "nothing.csv"}, ["data.test_path", "nothing.csv"]),
        ({"path": "a.csv", "test_path": "b.csv"}, ["data.label_column", "'label'", "c"]),
        ({"path": "broken.parquet"}, ["data.path", "broken.parquet", "parquet"]),
        ({"path": "a.cvs"}, ["data.path", "a.cvs", "Did you mean 'a.csv'"]),
    ],
)
def test_refusals(
    options: dict, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\n" + "x,a\ny,b\n" * 20)
    Path("b.csv").write_text("text,label\nx,c\n")
    Path("here.xlsx").write_text("?")
    Path("broken.parquet").write_bytes(b"PAR1 no")
    Path("folder").mkdir()
    with pytest.raises(DataError) as caught:
        load_raw(DataConfig(**options), 0)
    for word in words:
        assert word in str(caught.value)
