"""What users' data and networks do to a loader that expects none of it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from scpl_ray.config.schema import DataConfig
from scpl_ray.data import hub, packaged
from scpl_ray.data.loader import BatchLoader
from scpl_ray.data.sources import load_raw
from scpl_ray.data.text import encode, train_tokenizer
from scpl_ray.data.word_vectors import load_word_vectors
from scpl_ray.errors import DataError

TWO = "x,a\ny,b\n"


def labelled(path: Path, names: list[str] | None) -> str:
    """Writes "good" as pos and "bad" as neg; with `names` as their class ids."""
    labels = ["pos", "neg"] * 20
    rows = {"text": ["good", "bad"] * 20, "label": labels}
    if names:
        rows["label"] = [names.index(v) for v in labels]
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        Dataset.from_dict(rows, features=features).to_parquet(str(path))
    else:
        Dataset.from_dict(rows).to_parquet(str(path))
    return str(path)


@pytest.mark.parametrize("other", [["pos", "neg"], None], ids=["another_order", "words"])
def test_classes_of_a_test_file_are_matched_by_name(
    other: list[str] | None, tmp_path: Path
) -> None:
    config = DataConfig(
        path=labelled(tmp_path / "train.parquet", ["neg", "pos"]),
        test_path=labelled(tmp_path / "test.parquet", other),
    )
    raw = load_raw(config, 0)
    for split in raw.splits.values():
        for text, label in zip(split.samples, split.labels, strict=True):
            assert raw.label_names[label] == {"good": "pos", "bad": "neg"}[text]


def test_none_and_na_are_words_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "null,None\nNA,some\n" * 20)
    raw = load_raw(DataConfig(path=str(tmp_path / "a.csv")), 0)
    assert raw.label_names == ("None", "some")
    assert set(raw.splits["train"].samples) == {"null", "NA"}


def test_classes_of_two_samples_still_give_a_test_and_a_validation_split(tmp_path: Path) -> None:
    rows = "".join(f"word{i},c{i % 50}\n" for i in range(100))
    (tmp_path / "a.csv").write_text("text,label\n" + rows)
    raw = load_raw(DataConfig(path=str(tmp_path / "a.csv")), 0)
    assert {n: len(s.labels) for n, s in raw.splits.items()} == {
        "train": 72,
        "test": 20,
        "validation": 8,
    }


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("text,label\n", {}, ["data.path", "no rows"]),
        ("", {}, ["data.path", "empty"]),
        ("text,label\n" + TWO * 20 + "z,\n", {}, ["data.label_column", "row 41"]),
        ("text,label\n" + "x,1\ny,inf\n" * 20, {}, ["data.label_column", "inf", "row 2"]),
        ("text,label\n" + "x,1\ny,1.5\n" * 20, {}, ["data.label_column", "1.5"]),
        ("text,label\n" + "x,a\n" * 20, {}, ["data.label_column", "only one class"]),
        ("text,label\n" + "5,a\n6,b\n" * 20, {}, ["data.text_column", "int", "not text"]),
        ("text,label\n" + TWO * 20 + '"z,a\n', {}, ["data.path", "not a readable csv"]),
        ("text,label\n" + "x,a\n\xe9,b\n" * 20, {}, ["data.path", "utf-8"]),
        ("text,label\n" + TWO * 2, {}, ["data.validation", "3 training samples", "set it to 0"]),
        ("text,label\n" + TWO * 20, {"limit": 1}, ["data.limit", "only one class"]),
        (
            "text,label\n" + TWO * 20,
            {"text_column": "txet"},
            ["data.text_column", "text, label", "Did you mean 'text'"],
        ),
        ("text,label\n" + "...,a\n!,b\n" * 20, {}, ["no training sample", "word"]),
    ],
)
def test_bad_files(content: str, options: dict, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        BatchLoader.prepare(DataConfig(path=str(path), **options), 0, 4, 4)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text":"x","label":1}\n{"text":"y","label":"b"}\n' * 20, ["mixes integers and strings"]),
        ('{"text":"x","label":1}\n{"text": oops\n', ["data.path", "not a readable json", "row 1"]),
        ('{"text":["x"],"label":1}\n' * 20, ["data.text_column", "list"]),
    ],
)
def test_bad_json_lines(content: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        load_raw(DataConfig(path=str(tmp_path / "a.jsonl")), 0)
    for word in words:
        assert word in str(caught.value)


def test_unknown_source_and_file_as_offline_source() -> None:
    with pytest.raises(DataError, match=r"data\.source 'imbd'.*Did you mean 'imdb'"):
        load_raw(DataConfig(source="imbd"), 0)
    with pytest.raises(DataError, match=r"data\.offline 'file'"):
        load_raw(DataConfig(source="imdb", offline="file"), 0)


def test_dropped_samples_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{'...' if i < 10 else 'word'},{i % 2}\n" for i in range(100))
    (tmp_path / "a.csv").write_text("text,label\n" + rows)
    made = BatchLoader.prepare(DataConfig(path=str(tmp_path / "a.csv")), 0, 8, 8)
    assert sum(made.dropped.values()) == 10
    assert set(made.dropped) == {"train", "validation", "test"}
    with pytest.raises(IndexError, match="test split has no batch 99"):
        made.eval_batch("test", 99)


def test_a_given_tokenizer_is_used_as_it_is(texts: Path) -> None:
    saved = train_tokenizer(["alpha beta"], DataConfig()).to_str()
    made = BatchLoader.prepare(DataConfig(path=str(texts)), 0, 16, 32, tokenizer=saved)
    assert made.info.tokenizer == saved and made.info.vocab_size == 4


def test_markers_in_a_text_are_words_not_padding() -> None:
    saved = train_tokenizer(["[PAD] hello", "b a"], DataConfig()).to_str()
    assert (encode(saved, ["[PAD] [UNK] hello"])[0] > 0).all()


def test_comparison_signs_are_not_tags() -> None:
    tokenizer = train_tokenizer(["a < b and c > d <br/>e"], DataConfig())
    tokens = tokenizer.encode("a < b and c > d <br />e<!-- a -->").tokens
    assert tokens == ["a", "b", "and", "c", "d", "e"]


def test_ties_are_ordered_by_the_alphabet() -> None:
    tokenizer = train_tokenizer(["d c b a b"], DataConfig())
    assert [tokenizer.id_to_token(i) for i in range(6)] == ["[PAD]", "[UNK]", "b", "a", "c", "d"]


def test_vector_files_with_markers_spaces_and_blank_lines(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["hello world"], DataConfig())
    path = tmp_path / "v.txt"
    path.write_text("[PAD] 1 2\n. . . 3 4\nat name 5 6\nhello 7 8 \n\n")
    matrix, found = load_word_vectors(str(path), tokenizer.to_str(), 2)
    assert not matrix[0].any() and not found[0]
    assert matrix[tokenizer.token_to_id("hello")].tolist() == [7, 8] and found.sum() == 1
    path.write_text("hello nan 2\n")
    with pytest.raises(DataError, match=r"v\.txt:1 .*finite"):
        load_word_vectors(str(path), tokenizer.to_str(), 2)


def test_one_timeout_bounds_name_lookup_and_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    never = threading.Event()

    def wait(*args: object, **options: object) -> None:
        never.wait(20)
        raise OSError("too late")

    monkeypatch.setattr("urllib.request.urlopen", wait)
    start = time.monotonic()
    assert "no answer within 0.2 s" in hub.why_unreachable(0.2)
    assert time.monotonic() - start < 2
    never.set()


def test_an_answer_that_is_not_http_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")

        def babble() -> None:
            peer, _ = server.accept()
            peer.recv(1000)
            peer.sendall(b"SSH-2.0 hello\r\n\r\n")
            peer.close()

        threading.Thread(target=babble, daemon=True).start()
        assert hub.why_unreachable(2.0)
    monkeypatch.setenv("HF_ENDPOINT", "no address")
    assert hub.why_unreachable(2.0)


def test_the_users_own_copy_of_the_source_distribution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packaged.subprocess, "run", lambda *a, **k: pytest.fail("asked pip"))
    (tmp_path / "vaderSentiment-3.3.2.tar.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"movie_snippets.*checksum of vaderSentiment"):
        packaged.movie_snippets(DataConfig(cache_dir=str(tmp_path)))


def test_storage_is_flat(texts: Path) -> None:
    split = BatchLoader.prepare(DataConfig(path=str(texts)), 0, 16, 32).splits["train"]
    assert split.ids.dtype == np.int32 and split.ids.ndim == 1
    assert len(split.offsets) == len(split.labels) + 1
