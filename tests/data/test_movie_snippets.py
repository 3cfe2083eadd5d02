"""The real film-review snippets; the first run on a machine fetches them with pip."""

from __future__ import annotations

from pathlib import Path

import pytest

from scpl_ray.config.schema import DataConfig
from scpl_ray.data import packaged
from scpl_ray.data.loader import BatchLoader
from scpl_ray.errors import DataError


def test_the_known_numbers() -> None:
    raw = packaged.movie_snippets(DataConfig())
    split = raw.splits["train"]
    assert len(split.labels) == 10_568
    assert round(float(split.labels.mean()), 3) == 0.496
    made = BatchLoader.prepare(DataConfig(), 0, 64, 256)
    assert made.info.sizes["test"] == 2_113


def test_a_damaged_cache_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = (packaged.cache_dir() / "movie_snippets-3.3.2.txt").read_bytes()
    monkeypatch.setattr(packaged, "_fetch", lambda cache: good)
    damaged = tmp_path / "movie_snippets-3.3.2.txt"
    damaged.write_bytes(good[:-5])
    raw = packaged.movie_snippets(DataConfig(cache_dir=str(tmp_path)))
    assert len(raw.splits["train"].labels) == 10_568
    assert damaged.read_bytes() == good


def test_without_a_network_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(DataError, match="movie_snippets.*could not be fetched.*network"):
        packaged.movie_snippets(DataConfig(cache_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())
