"""CIFAR, Tiny-ImageNet and the user's folders, on small files of the published forms."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scpl_ray.config import load_config
from scpl_ray.config.schema import DataConfig
from scpl_ray.data import image_sets, images
from scpl_ray.data.loader import BatchLoader
from scpl_ray.data.sources import load_raw
from scpl_ray.errors import DataError
from scpl_ray.models import build_model
from tests.data.image_files import pixels, save, write_cifar, write_folder, write_tiny_imagenet

CLOSED = "http://127.0.0.1:9/x"


def loader(seed: int = 0, batch: int = 8, **options: object) -> BatchLoader:
    return BatchLoader.prepare(DataConfig(**options), seed, batch, 16)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCPL_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("given", ["cache", "parent", "folder"])
def test_cifar(
    name: str, given: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cache if given == "cache" else tmp_path / "mine"
    train, labels, test, test_labels = write_cifar(name, root, monkeypatch)
    folder = root / image_sets.CIFAR[name].folder
    path = {"cache": None, "parent": str(root), "folder": str(folder)}[given]
    made = loader(source=name, path=path, validation=0.0)
    assert made.info.name == made.info.requested == name and made.info.notice == ""
    assert made.info.label_names == ("c0", "c1", "c2", "c3")
    assert made.info.image_shape == (3, 32, 32)
    assert made.info.sizes == {"train": 40, "validation": 0, "test": 40}
    # Read back by hand: channel first, between 0 and 1, the published constants.
    mean, deviation = (np.array(s) for s in image_sets.PIXEL_STATS[name])
    for split, own, own_labels in (("train", train, labels), ("test", test, test_labels)):
        batch = made.eval_batch(split, 1)
        expected = ((own[16:32] / 255 - mean) / deviation).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(batch.inputs["images"], expected, atol=1e-5)
        assert (batch.labels == own_labels[16:32]).all()


def test_a_damaged_cifar_file_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar("cifar10", cache, monkeypatch)
    with (cache / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match="checksums") as caught:
        load_raw(DataConfig(source="cifar10"), 0)
    assert "cifar-10-python.tar.gz" in str(caught.value)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Serves a folder as the site of an archive."""
    (tmp_path / "site").mkdir()
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "site")
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def archived(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> image_sets.Archive:
    """Packs a small CIFAR-10 as its authors did, and says so where the published archive is."""
    write_cifar("cifar10", tmp_path / "packed", monkeypatch)
    known = image_sets.CIFAR["cifar10"]
    file = tmp_path / "site" / known.file
    with tarfile.open(file, "w:gz") as archive:
        archive.add(tmp_path / "packed" / known.folder, known.folder)
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    own = dataclasses.replace(known, url=f"{site}/{known.file}", md5=md5)
    monkeypatch.setitem(image_sets.CIFAR, "cifar10", own)
    return own


def test_cifar_is_downloaded_once(
    site: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = archived(site, tmp_path, monkeypatch)
    assert load_raw(DataConfig(source="cifar10"), 0).name == "cifar10"
    assert [p.name for p in cache.iterdir()] == [own.folder], "nothing half-done is left"
    monkeypatch.setitem(image_sets.CIFAR, "cifar10", dataclasses.replace(own, url=CLOSED))
    assert len(load_raw(DataConfig(source="cifar10"), 0).splits["test"].labels) == 40


@pytest.mark.parametrize("where", ["cache", "path", "file"])
def test_an_archive_that_is_there_needs_no_network(
    where: str, site: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(archived(site, tmp_path, monkeypatch), url=CLOSED)
    monkeypatch.setitem(image_sets.CIFAR, "cifar10", own)
    place = cache if where == "cache" else tmp_path / "mine"
    place.mkdir()
    shutil.copy(tmp_path / "site" / own.file, place)
    path = {"cache": None, "path": str(place), "file": str(place / own.file)}[where]
    assert load_raw(DataConfig(source="cifar10", path=path), 0).name == "cifar10"
    shutil.rmtree(cache / own.folder)
    with (place / own.file).open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match=f"checksum of {place / own.file}"):
        load_raw(DataConfig(source="cifar10", path=path), 0)


def test_a_download_of_another_content_is_refused(
    site: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = archived(site, tmp_path, monkeypatch)
    (tmp_path / "site" / own.file).write_bytes(b"welcome to our wireless network")
    with pytest.raises(DataError, match="could not be downloaded"):
        load_raw(DataConfig(source="cifar10"), 0)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "tiny_imagenet"])
def test_neither_here_nor_reachable(
    source: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, known in image_sets.CIFAR.items():
        monkeypatch.setitem(image_sets.CIFAR, name, dataclasses.replace(known, url=CLOSED))
    tiny = dataclasses.replace(image_sets.TINY_IMAGENET, url=CLOSED)
    monkeypatch.setattr(image_sets, "TINY_IMAGENET", tiny)
    with pytest.raises(DataError) as caught:
        load_raw(DataConfig(source=source), 0)
    for word in ("data.source", source, CLOSED, "refused", str(cache), "data.path", "data.offline"):
        assert word in str(caught.value)
    raw = load_raw(DataConfig(source=source, offline="digits"), 0)
    assert f"digits INSTEAD OF {source}" in raw.notice
    with pytest.raises(DataError, match="data.path: .* has neither the folder"):
        load_raw(DataConfig(source=source, path=str(tmp_path)), 0)


@pytest.mark.parametrize("form", ["annotated", "sorted"])
def test_tiny_imagenet(form: str, tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path)
    if form == "sorted":
        for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
            file, name = line.split("\t")[:2]
            (folder / "val" / name).mkdir(exist_ok=True)
            (folder / "val" / "images" / file).rename(folder / "val" / name / file)
        shutil.rmtree(folder / "val" / "images")
        (folder / "val" / "val_annotations.txt").unlink()
    made = loader(source="tiny_imagenet", path=str(tmp_path), validation=0.2)
    assert made.info.label_names == ("n00", "n01", "n02")
    assert made.info.sizes == {"train": 24, "validation": 6, "test": 6}
    assert made.info.image_shape == (3, 32, 32), "the size of the published experiments"
    mean, deviation = (np.array(s) for s in image_sets.PIXEL_STATS["tiny_imagenet"])
    for split in made.info.sizes:
        batch = made.eval_batch(split, 0)
        grey = batch.inputs["images"].transpose(0, 2, 3, 1) * deviation + mean
        assert (np.rint(grey * 255).astype(int)[:, 5, 5, 0] == 40 * batch.labels).all()
    whole = loader(source="tiny_imagenet", path=str(folder), image_size=64)
    assert whole.info.image_shape == (3, 64, 64)


def test_a_strange_line_of_tiny_imagenet_is_named(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path)
    with (folder / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_9.JPEG\tn09\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=r"val_annotations.txt:7 .*3 classes: 'val_9"):
        loader(source="tiny_imagenet", path=str(folder))


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ({"": 20}, {"train": 28, "validation": 4, "test": 8}),
        ({"train": 20}, {"train": 28, "validation": 4, "test": 8}),
        ({"train": 20, "test": 3}, {"train": 36, "validation": 4, "test": 6}),
        ({"train": 20, "valid": 2, "test": 3}, {"train": 40, "validation": 4, "test": 6}),
    ],
)
def test_folders(splits: dict[str, int], sizes: dict[str, int], tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pets", splits)
    (path / ".git").mkdir()
    made, again = (loader(source="folder", path=str(path)) for _ in range(2))
    info = made.info
    assert (info.name, info.requested, info.label_names) == ("pets", "pets", ("cat", "dog"))
    assert info.sizes == sizes and info.image_shape == (3, 8, 8)
    mean, deviation = info.pixel_stats
    for split in sizes:
        batch, same = made.eval_batch(split, 0), again.eval_batch(split, 0)
        assert (batch.inputs["images"] == same.inputs["images"]).all()
        grey = batch.inputs["images"][:, 0, 0, 0] * deviation[0] + mean[0]
        assert (np.rint(grey * 255).astype(int) // 100 == batch.labels).all()
    read = images.ImageFiles(
        list(load_raw(DataConfig(source="folder", path=str(path)), 0).splits["train"].samples), None
    )
    everything = read[np.arange(sizes["train"])]
    assert mean[0] == pytest.approx(everything.mean() / 255)
    assert deviation[0] == pytest.approx(everything.std() / 255)


def test_files_are_in_the_order_of_their_paths_and_decoded_when_asked_for(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"": 12})
    save(tmp_path / "dog" / "deeper" / "z.png", np.full((8, 8, 3), 250, np.uint8))
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "dog" / "._00.png").write_bytes(b"a tool's own")
    made = loader(source="folder", path=str(path), test=0.0, validation=0.0)
    files = made.splits["train"].pixels
    assert isinstance(files, images.ImageFiles), "paths, not pixels, are held"
    assert [Path(p).relative_to(path).as_posix() for p in files.paths] == [
        *(f"cat/{n:02d}.png" for n in range(12)),
        *(f"dog/{n:02d}.png" for n in range(12)),
        "dog/deeper/z.png",
    ]
    # A file that changes is read anew, by the very next batch.
    before = made.eval_batch("train", 0).inputs["images"].copy()
    save(tmp_path / "cat" / "03.png", np.full((8, 8, 3), 77, np.uint8))
    changed = (made.eval_batch("train", 0).inputs["images"] != before).any((1, 2, 3))
    assert np.flatnonzero(changed).tolist() == [3]


def test_a_folder_called_train_may_be_a_class(tmp_path: Path) -> None:
    made = loader(source="folder", path=str(write_folder(tmp_path, {"": 10}, ("bus", "train"))))
    assert made.info.label_names == ("bus", "train")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"": 12})
    made = loader(source="folder", path=str(path), test=0.0, validation=0.0)
    (tmp_path / "dog" / "07.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"dog/07\.png is not a readable image"):
        [made.train_batch(i) for i in range(made.steps_per_epoch)]
    noise = save(tmp_path / "dog" / "07.png", pixels(1, 0, 8)[0])
    noise.write_bytes(noise.read_bytes()[:100])
    with pytest.raises(DataError, match=r"the image .*dog/07\.png cannot be read"):
        [made.train_batch(i) for i in range(made.steps_per_epoch)]
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(noise)
    with pytest.raises(DataError, match=r"dog/07\.png has more than 8 bits"):
        [made.train_batch(i) for i in range(made.steps_per_epoch)]


def test_sizes_must_be_the_same_or_are_made_so(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"": 12})
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 200  # its middle, a square
    save(tmp_path / "cat" / "05.png", wide)
    made = loader(source="folder", path=str(path), test=0.0, validation=0.0, image_size=10)
    assert made.info.image_shape == (3, 10, 10)
    files = made.splits["train"].pixels
    middle = files[np.array([5])][0, :, :, 1:-1]
    assert (middle == 200).all(), "scaled by the shorter side, cut in the middle"
    with pytest.raises(DataError, match=r"data.image_size: .*05.png is 40 x 20 .* 8 x 8"):
        loader(source="folder", path=str(path), test=0.0, validation=0.0)


def test_photographs_lie_as_they_say(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    read = images.read_image(str(tmp_path / "a.png"), None)
    assert read.shape == (3, 8, 8) and (read[:, 4:] == 255).all() and (read[:, :4] == 0).all()


def test_images_in_memory_are_brought_to_size_too() -> None:
    made = loader(source="digits", image_size=16)
    assert made.info.image_shape == (1, 16, 16)
    grey = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2) * 50
    assert images.resized(grey, 2) is grey
    assert images.resized(grey, 4).shape == (1, 1, 4, 4)
    halved = images.resized(np.repeat(np.repeat(grey, 2, 2), 2, 3), 2)
    # Antialiased: each new pixel weighs 3/7, 3/7 and 1/7 of the three nearest old ones; 50 a
    # column and 100 a row, hence from 50/7 to 50 * 6/7, and from 100/7 to 100 * 6/7.
    assert halved[0, 0].tolist() == [[21, 57], [93, 129]]


def test_constants_of_the_user(tmp_path: Path) -> None:
    own = {"pixel_mean": [0.5], "pixel_std": [0.25]}
    made = loader(source="digits", **own)
    assert made.info.pixel_stats == ((0.5,), (0.25,))
    values = made.train_batch(0).inputs["images"]
    assert values.min() == -2 and values.max() == 2
    with pytest.raises(DataError, match=r"data.pixel_mean: 1 numbers, .* 3 channels"):
        loader(source="folder", path=str(write_folder(tmp_path, {"": 12})), **own)
    with pytest.raises(DataError, match="give both"):
        loader(source="digits", pixel_mean=[0.5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["data.path", "one sub-folder"]),
        ({"path": "pest"}, ["no folder 'pest'", "Did you mean 'pets'"]),
        ({"path": "pets/cat"}, ["needs one sub-folder", "none"]),
        ({"path": "hollow"}, ["no image in hollow/b"]),
        ({"path": "mixed"}, ["mixed/test", "that the training images have not: cow"]),
        ({"path": "twice"}, ["val and validation; keep one"]),
        ({"path": "pets", "test_path": "x"}, ["data.test_path", "test/"]),
        ({"path": "pets", "source": "file"}, ["data.source=folder"]),
        ({"path": "pets", "offline": "cifar10"}, ["data.offline", "'cifar10'", "mnist_5k"]),
    ],
)
def test_refusals(
    options: dict, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("pets"), {"": 3})
    write_folder(Path("hollow"), {"": 3}, ("a",))
    Path("hollow/b").mkdir()
    write_folder(Path("mixed"), {"train": 3})
    write_folder(Path("mixed"), {"test": 3}, ("cow",))
    write_folder(Path("twice"), {"train": 3, "val": 1, "validation": 1})
    with pytest.raises(DataError) as caught:
        load_raw(DataConfig(**{"source": "folder", **options}), 0)
    for word in words:
        assert word in str(caught.value)


def test_the_example_loads_resolves_and_builds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar("cifar10", cache, monkeypatch, classes=10)
    config = load_config(Path(__file__).parents[2] / "examples" / "cifar10.yaml")
    made = BatchLoader.prepare(config.data, 0, config.train.batch_size, 256)
    model = build_model(config, made.info)
    assert model.names == tuple(f"conv.{i}" for i in range(1, 7))
    batch = made.train_batch(0)
    assert batch.inputs["images"].shape == (2 * made.info.sizes["train"], 3, 32, 32)
