from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.text import encode, train_tokenizer
from scpl_ray.data.word_vectors import load_word_vectors
from scpl_ray.errors import DataError

TEXTS = ["The film <br />is GREAT, don't miss it!", "great great film", "a film \u2026 of films"]


def words(text: str, **options: object) -> list[str]:
    tokenizer = train_tokenizer(TEXTS, DataConfig(**options))
    return tokenizer.encode(text).tokens


def test_cleaning() -> None:
    assert words("The film <br />is GREAT, don't") == ["the", "film", "is", "great", "dont"]
    assert words("film&film") == ["film", "film"]


def test_stop_words_are_removed_and_stay_removed_in_the_saved_file() -> None:
    tokenizer = train_tokenizer(TEXTS, DataConfig(stop_words="english"))
    assert "the" not in tokenizer.get_vocab() and "great" in tokenizer.get_vocab()
    saved = encode(tokenizer.to_str(), ["it is the great film of the the"])[0]
    assert [tokenizer.id_to_token(int(i)) for i in saved] == ["great", "film"]


def test_pad_is_0_unk_is_1_then_by_frequency() -> None:
    tokenizer = train_tokenizer(TEXTS, DataConfig())
    assert tokenizer.token_to_id("[PAD]") == 0
    assert tokenizer.token_to_id("[UNK]") == 1
    assert {tokenizer.id_to_token(2), tokenizer.id_to_token(3)} == {"film", "great"}
    assert encode(tokenizer.to_str(), ["unheard"])[0].tolist() == [1]


def test_vocab_size_and_max_len_are_respected() -> None:
    tokenizer = train_tokenizer(TEXTS, DataConfig(vocab_size=4, max_len=2))
    assert tokenizer.get_vocab_size() == 4
    assert len(encode(tokenizer.to_str(), ["film film film"])[0]) == 2


def test_vocabulary_does_not_depend_on_chance() -> None:
    many = [f"word{i} word{i % 7}" for i in range(500)]
    first = train_tokenizer(many, DataConfig(vocab_size=50)).to_str()
    assert all(train_tokenizer(many, DataConfig(vocab_size=50)).to_str() == first for _ in range(5))


@pytest.mark.parametrize("header", ["", "3 2\n"], ids=["glove", "fasttext"])
def test_row_i_of_the_vectors_belongs_to_token_id_i(header: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, DataConfig())
    path = tmp_path / "vectors.txt"
    path.write_text(f"{header}great 1.5 -2\nnowhere 9 9\nfilm 0.25 4\n")
    matrix, found = load_word_vectors(str(path), tokenizer.to_str(), 2)
    assert matrix.shape == (tokenizer.get_vocab_size(), 2)
    assert matrix[tokenizer.token_to_id("great")].tolist() == [1.5, -2.0]
    assert matrix[tokenizer.token_to_id("film")].tolist() == [0.25, 4.0]
    assert found.sum() == 2 and not found[0] and not matrix[0].any()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("great 1 2 3\n", [":1", "3 numbers", "expected 2"]),
        ("great 1\n", [":1", "expected 2"]),
        ("film 1 2\ngreat 1 x\n", [":2", "numbers"]),
        ("nowhere 1 2\n", ["none of the"]),
    ],
)
def test_bad_vector_files(content: str, words: list[str], tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, DataConfig())
    path = tmp_path / "v.txt"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_word_vectors(str(path), tokenizer.to_str(), 2)
    for word in ["model.word_vectors", *words]:
        assert word in str(caught.value)


def test_saved_tokenizer_is_plain_json() -> None:
    saved = train_tokenizer(TEXTS, DataConfig()).to_str()
    assert json.loads(saved)["model"]["type"] == "WordLevel"
    assert encode(saved, ["great film"])[0].dtype == np.int32
