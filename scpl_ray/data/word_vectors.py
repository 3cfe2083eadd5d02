"""GloVe and fastText vectors from a text file: row i belongs to token id i."""

from __future__ import annotations

import numpy as np

from scpl_ray.data.text import PAD, UNK
from scpl_ray.errors import DataError


def load_word_vectors(path: str, tokenizer_json: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the vectors of the words of a vocabulary.

    Args:
        path: GloVe (word and numbers), or fastText .vec (the same after a line "rows width").
        tokenizer_json: the vocabulary.
        width: numbers expected in each line.

    Returns:
        matrix [V, width] float32, row i for token id i, zero where the file has no such word;
        found [V] bool.

    Raises:
        DataError: naming model.word_vectors, the line, and what was expected.
    """
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_str(tokenizer_json).get_vocab()
    matrix = np.zeros((len(vocabulary), width), dtype=np.float32)
    found = np.zeros(len(vocabulary), dtype=bool)
    words = {word: row for word, row in vocabulary.items() if word not in (PAD, UNK)}
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:  # noqa: PTH123
            for number, line in enumerate(file, 1):
                fields = line.rstrip().split(" ")
                if number == 1 and len(fields) == 2 and all(f.isdigit() for f in fields):
                    continue
                if fields == [""]:
                    continue
                if len(fields) <= width:
                    raise DataError(
                        f"model.word_vectors: {path}:{number} has {len(fields) - 1} numbers, "
                        f"expected {width}; set model.embedding_width to the file's width"
                    )
                # A word may contain spaces: the numbers are the last fields.
                word = " ".join(fields[:-width])
                if number <= 2 and _is_number(fields[-width - 1]) and len(fields) > width + 1:
                    raise DataError(
                        f"model.word_vectors: {path}:{number} has {len(fields) - 1} numbers, "
                        f"expected {width}; set model.embedding_width to the file's width"
                    )
                row = words.get(word)
                if row is not None and not found[row]:
                    matrix[row] = _numbers(fields[-width:], path, number)
                    found[row] = True
    except OSError as error:
        raise DataError(f"model.word_vectors: cannot read {path}: {error.strerror}") from error
    if not found.any():
        raise DataError(
            f"model.word_vectors: {path} has none of the vocabulary's {len(words)} words; "
            "is it a text file of GloVe or fastText, in this language?"
        )
    return matrix, found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(fields: list[str], path: str, number: int) -> np.ndarray:
    try:
        values = np.array(fields, dtype=np.float32)
    except ValueError as error:
        raise DataError(
            f"model.word_vectors: {path}:{number} is not a word and {len(fields)} numbers ({error})"
        ) from error
    if not np.isfinite(values).all():
        raise DataError(
            f"model.word_vectors: {path}:{number} holds a number that is not finite; mend the line"
        )
    return values
