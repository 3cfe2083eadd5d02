"""The registry of sources, and what to train on where the Hub cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.files import user_files
from scpl_ray.data.hub import HUB_SETS, HubUnreachableError, load_from_hub
from scpl_ray.data.packaged import digits, mnist_5k, movie_snippets
from scpl_ray.data.raw import RawData, cut_splits
from scpl_ray.errors import DataError, unknown

Source = Callable[[DataConfig], RawData]

SOURCES: dict[str, Source] = {
    **{name: partial(load_from_hub, name) for name in HUB_SETS},
    "movie_snippets": movie_snippets,
    "digits": digits,
    "mnist_5k": mnist_5k,
    "file": user_files,
}


def check_source(config: DataConfig) -> None:
    """Checks the names in `data.source` and `data.offline`.

    Raises:
        DataError: an unknown name, or an offline source that needs the Hub itself.
    """
    if config.path is None and config.source not in SOURCES:
        raise DataError(unknown("data.source", config.source, SOURCES))
    without_hub = ["none", *(n for n in SOURCES if n not in HUB_SETS and n != "file")]
    if config.offline not in without_hub:
        raise DataError(unknown("data.offline", config.offline, without_hub))


def load_raw(config: DataConfig, seed: int) -> RawData:
    """Loads a source with all three splits; says in `notice` if another took its place.

    Args:
        config: `data.path` wins over `data.source`.
        seed: decides the validation share.

    Raises:
        DataError: see the sources.
    """
    check_source(config)
    name = "file" if config.path is not None else config.source
    try:
        raw = SOURCES[name](config)
    except HubUnreachableError:
        if config.offline == "none":
            raise
        raw = SOURCES[config.offline](config)
        raw = replace(
            raw,
            notice=f"the Hugging Face Hub cannot be reached: training on {raw.name} INSTEAD OF "
            f"{name} (data.offline)",
        )
    return cut_splits(raw, config, seed)
