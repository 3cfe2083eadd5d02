"""Published archives: found where the user has them, or downloaded once into the cache."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from scpl_ray.config.schema import DataConfig
from scpl_ray.data import reach
from scpl_ray.data.packaged import cache_dir
from scpl_ray.errors import DataError


@dataclass(frozen=True)
class Archive:
    """One archive of a data set's authors.

    Attributes:
        source: the name in `data.source`.
        folder: what it unpacks to.
        file: its own name.
        url: where it lies.
        md5: the published checksum.
    """

    source: str
    folder: str
    file: str
    url: str
    md5: str


def unpacked(archive: Archive, config: DataConfig) -> Path:
    """Returns the archive's unpacked folder.

    Args:
        archive: what is wanted.
        config: `data.path` is the folder, its parent, the archive, or its folder; without it the
            cache is looked into, and filled.

    Raises:
        UnreachableError: it is not here, and its site does not answer.
        DataError: `data.path` has no such thing, or the archive is damaged.
    """
    cache = cache_dir(config)
    place = cache if config.path is None else Path(config.path).expanduser()
    if place.name == archive.folder and place.is_dir():
        return place
    if (place / archive.folder).is_dir():
        return place / archive.folder
    file = place if place.is_file() else place / archive.file
    if config.path is not None and not file.is_file():
        raise DataError(
            f"data.path: {config.path!r} has neither the folder {archive.folder!r} nor "
            f"{archive.file!r} of {archive.source}; give the folder that holds one of them"
        )
    try:
        if not file.is_file():
            return _download(archive, config, cache)
        if not (cache / archive.folder).is_dir():
            _unpack(archive, file, cache)
    except OSError as error:
        raise DataError(
            f"data.source: {archive.source!r} could not be unpacked into {cache}: {error}; choose "
            "another folder with data.cache_dir, or unpack it yourself and set data.path"
        ) from error
    return cache / archive.folder


def _download(archive: Archive, config: DataConfig, cache: Path) -> Path:
    remedy = (
        f"put {archive.file} or its folder {archive.folder} into {cache}, set data.path to where "
        "it lies, or set data.offline (e.g. mnist_5k) or another data.source"
    )
    problem = reach.why_unreachable(archive.url, config.offline_timeout_s)
    if problem:
        raise reach.UnreachableError(
            f"data.source: {archive.source!r} is not in {cache}, and {archive.url} cannot be "
            f"reached ({problem}): {remedy}"
        )
    from torchvision.datasets.utils import download_url

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            download_url(archive.url, folder, archive.file, archive.md5)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"data.source: {archive.source!r} could not be downloaded from {archive.url}: "
                f"{error}; try again, or {remedy}"
            ) from error
        _unpack(archive, Path(folder) / archive.file, cache)
    return cache / archive.folder


def _unpack(archive: Archive, file: Path, cache: Path) -> None:
    """Unpacks beside its place and moves it there: no one sees half of it."""
    from torchvision.datasets.utils import check_md5, extract_archive

    if not check_md5(file, archive.md5):
        raise DataError(
            f"data.source: {archive.source!r}: the checksum of {file} is not the published one; "
            "the file is damaged or another one: remove it, and download it again"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        extract_archive(file, folder)
        try:
            (Path(folder) / archive.folder).rename(cache / archive.folder)
        except OSError:
            # Another run was faster: its copy is the same, checked in the same way.
            if not (cache / archive.folder).is_dir():
                raise
