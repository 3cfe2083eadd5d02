"""Texts -> token ids: cleaning, word-level vocabulary, truncation; one tokenizer.json holds all."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scpl_ray.config.schema import DataConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNK = "[PAD]", "[UNK]"
_CHUNK = 10_000


def train_tokenizer(texts: Sequence[str], config: DataConfig) -> Tokenizer:
    """Builds the vocabulary of the most frequent words; pad is 0, unk is 1.

    HTML tags become spaces, apostrophes vanish (don't -> dont), other punctuation becomes a
    space, stop words are removed if asked for. All of it is inside the tokenizer's own file.

    Args:
        texts: training texts only.
        config: `vocab_size`, `max_len`, `lowercase` and `stop_words` are read.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    steps: list[Any] = [normalizers.Replace(Regex(r"<[/!]?[A-Za-z-][^<>]*>"), " ")]
    if config.lowercase:
        steps.append(normalizers.Lowercase())
    steps.append(normalizers.Replace(Regex("['\u2019]"), ""))
    steps.append(normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}]+"), " "))
    if config.stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        words = "|".join(sorted(ENGLISH_STOP_WORDS))
        steps.append(normalizers.Replace(Regex(rf"(?i)(?<![^ ])(?:{words})(?![^ ])"), " "))
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size, special_tokens=[PAD, UNK], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(config.max_len)
    # As "added tokens" they would be found in raw text: someone's "[PAD]" would become padding.
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(saved, ensure_ascii=False))


def encode(tokenizer_json: str, texts: Sequence[str]) -> list[np.ndarray]:
    """Encodes texts with a saved tokenizer; each becomes [T] int32, possibly empty."""
    tokenizer = _tokenizer(tokenizer_json)
    encoded: list[np.ndarray] = []
    # In chunks: an Encoding holds much more than its ids.
    for start in range(0, len(texts), _CHUNK):
        chunk = tokenizer.encode_batch_fast(list(texts[start : start + _CHUNK]))
        encoded += [np.array(e.ids, dtype=np.int32) for e in chunk]
    return encoded


@functools.lru_cache(maxsize=4)
def _tokenizer(tokenizer_json: str) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json)


def pad(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Pads rows of ids, each [T], to the longest: tokens [B, T] int64, mask [B, T] bool."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    mask = np.arange(max(1, lengths.max(initial=0)))[None, :] < lengths[:, None]
    tokens = np.zeros(mask.shape, dtype=np.int64)
    if mask.any():
        tokens[mask] = np.concatenate(rows)
    return {"tokens": tokens, "mask": mask}
