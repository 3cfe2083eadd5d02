"""The registry of sources, and what to train on where the network cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.files import user_files
from scpl_ray.data.hub import HUB_SETS, load_from_hub
from scpl_ray.data.image_sets import CIFAR, cifar, image_folder, tiny_imagenet
from scpl_ray.data.label_noise import add_label_noise
from scpl_ray.data.packaged import digits, mnist_5k, movie_snippets
from scpl_ray.data.raw import RawData, cut_splits
from scpl_ray.data.reach import UnreachableError
from scpl_ray.errors import DataError, unknown

Source = Callable[[DataConfig], RawData]

SOURCES: dict[str, Source] = {
    **{name: partial(load_from_hub, name) for name in HUB_SETS},
    "movie_snippets": movie_snippets,
    "digits": digits,
    "mnist_5k": mnist_5k,
    **{name: partial(cifar, name) for name in CIFAR},
    "tiny_imagenet": tiny_imagenet,
    "file": user_files,
    "folder": image_folder,
}
_IMAGES_AT_PATH = (*CIFAR, "tiny_imagenet", "folder")
_PACKAGED = ("movie_snippets", "digits", "mnist_5k")


def check_source(config: DataConfig) -> None:
    """Checks the names in `data.source` and `data.offline`.

    Raises:
        DataError: an unknown name, an offline source that needs the network itself, or a key that
            the source does not know.
    """
    if config.path is None and config.source not in SOURCES:
        raise DataError(unknown("data.source", config.source, SOURCES))
    without_network = ("none", *_PACKAGED)
    if config.offline not in without_network:
        raise DataError(unknown("data.offline", config.offline, without_network))
    if config.test_path is not None and config.source in _IMAGES_AT_PATH:
        raise DataError(
            f"data.test_path: {config.test_path!r} does not go with data.source "
            f"{config.source!r}: it is for 'file'; a folder of images has its test split in test/"
        )


def load_raw(config: DataConfig, seed: int) -> RawData:
    """Loads a source with all three splits; says in `notice` if another took its place.

    Args:
        config: `data.path` wins over `data.source`, but for sources that it belongs to.
        seed: decides the validation share and the label noise.

    Raises:
        DataError: see the sources.
    """
    check_source(config)
    own = config.path is not None and config.source not in _IMAGES_AT_PATH
    name = "file" if own else config.source
    try:
        raw = SOURCES[name](config)
    except UnreachableError as error:
        if config.offline == "none":
            raise
        raw = SOURCES[config.offline](config)
        raw = replace(
            raw,
            notice=f"{error.place} cannot be reached: training on {raw.name} INSTEAD OF "
            f"{name} (data.offline)",
        )
    return add_label_noise(cut_splits(raw, config, seed), config.label_noise, seed)
