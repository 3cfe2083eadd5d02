"""CIFAR-10, CIFAR-100, Tiny-ImageNet, and the user's own folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from scpl_ray.config.schema import DataConfig
from scpl_ray.data.published import Archive, unpacked
from scpl_ray.data.raw import PixelStats, RawData, RawSplit
from scpl_ray.errors import DataError, nearest

CIFAR = {
    "cifar10": Archive(
        "cifar10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Archive(
        "cifar100",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
}
TINY_IMAGENET = Archive(
    "tiny_imagenet",
    "tiny-imagenet-200",
    "tiny-imagenet-200.zip",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
)
TINY_IMAGENET_SIZE = 32  # of the published experiments; the files have 64

# Mean and standard deviation of each channel, as in the code of the published experiments. (The
# deviations of CIFAR-10 are a mean over images, smaller than that over all pixels: 0.247 and so on;
# networks with BatchNorm hardly notice.)
PIXEL_STATS: dict[str, PixelStats] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}
_VALIDATION_FOLDERS = ("val", "valid", "validation")


def cifar(name: str, config: DataConfig) -> RawData:
    """60,000 colour images of 32x32 pixels in 10 or 100 classes (Krizhevsky 2009).

    Args:
        name: "cifar10" or "cifar100".
        config: `data.path`, or the cache.
    """
    archive = CIFAR[name]
    folder = unpacked(archive, config)
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        sets = {s: kind(folder.parent, train=s == "train") for s in ("train", "test")}
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"data.source: {name!r}: files in {folder} are missing, or their checksums are not the "
            f"published ones; remove the folder, and unpack {archive.file} again"
        ) from error
    splits = {
        # [N, H, W, C] -> [N, C, H, W]
        split: RawSplit(
            np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)),
            np.array(found.targets, dtype=np.int64),
        )
        for split, found in sets.items()
    }
    names = tuple(sets["train"].classes)
    return RawData(name, "image", splits, names, str(folder), pixel_stats=PIXEL_STATS[name])


def tiny_imagenet(config: DataConfig) -> RawData:
    """110,000 images of 200 classes of ImageNet, in the folders of its authors (Stanford CS231n).

    The labels of its test split were never published: as in the papers, its validation split is
    the test.
    """
    folder = unpacked(TINY_IMAGENET, config)
    classes = _classes(folder / "train")
    test = folder / "val"
    # Some copies have it sorted into class folders, as `torchvision.datasets.ImageFolder` wants.
    by_class = not (test / "val_annotations.txt").exists() and set(_folders(test)) - {"images"}
    splits = {
        "train": _class_folders(folder / "train", classes),
        "test": _class_folders(test, classes) if by_class else _annotated(test, classes),
    }
    return RawData(
        "tiny_imagenet",
        "image",
        splits,
        classes,
        str(folder),
        pixel_stats=PIXEL_STATS["tiny_imagenet"],
        image_size=config.image_size or TINY_IMAGENET_SIZE,
    )


def _annotated(place: Path, classes: tuple[str, ...]) -> RawSplit:
    """Reads val_annotations.txt: in each line a file, its class, and a box in the image."""
    marks = place / "val_annotations.txt"
    try:
        lines = marks.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"data.source: 'tiny_imagenet': cannot read {marks}: {error.strerror}; take the "
            "published folder, unchanged"
        ) from error
    index = {name: i for i, name in enumerate(classes)}
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in index:
            raise DataError(
                f"data.source: 'tiny_imagenet': {marks}:{number} is not a file and one of the "
                f"{len(classes)} classes: {line!r}; take the published folder, unchanged"
            )
        paths.append(str(place / "images" / fields[0]))
        labels.append(index[fields[1]])
    return RawSplit(paths, np.array(labels, dtype=np.int64))


def image_folder(config: DataConfig) -> RawData:
    """The user's images: PATH/CLASS/..., or PATH/train/CLASS/... and the same in val/ and test/."""
    if config.path is None:
        raise DataError(
            "data.path: data.source 'folder' needs it: a folder with one sub-folder of images for "
            "each class, or with train/ (and val/, test/) that have them"
        )
    root = Path(config.path).expanduser()
    if not root.is_dir():
        near = nearest(root.name, [p.name for p in root.parent.glob("*")])
        raise DataError(f"data.path: no folder {config.path!r}; give its path.{near}")
    # A folder "train" that has images, not folders, is a class: of vehicles, say.
    if not _folders(root / "train"):
        names = _classes(root)
        splits = {"train": _class_folders(root, names)}
    else:
        names = _classes(root / "train")
        splits = {"train": _class_folders(root / "train", names)}
        found = [f for f in _VALIDATION_FOLDERS if (root / f).is_dir()]
        if len(found) > 1:
            raise DataError(f"data.path: {config.path!r} has {' and '.join(found)}; keep one")
        for split, folder in [*(("validation", f) for f in found), ("test", "test")]:
            if (root / folder).is_dir():
                splits[split] = _class_folders(root / folder, names, all_classes=False)
    return RawData(
        root.resolve().name,
        "image",
        splits,
        names,
        f"the user's {config.path}",
        image_size=config.image_size,
    )


def _folders(place: Path) -> list[str]:
    """Names of sub-folders, sorted; hidden ones are tools' own."""
    if not place.is_dir():
        return []
    return sorted(e.name for e in os.scandir(place) if e.is_dir() and not e.name.startswith("."))


def _classes(place: Path) -> tuple[str, ...]:
    names = _folders(place)
    if len(names) < 2:
        raise DataError(
            f"data.path: {place} needs one sub-folder of images for each class, two or more; it "
            f"has {', '.join(names) or 'none'}"
        )
    return tuple(names)


def _class_folders(place: Path, names: tuple[str, ...], all_classes: bool = True) -> RawSplit:
    """Lists the images under each class, sorted by path, however deep they lie."""
    from torchvision.datasets.folder import is_image_file, make_dataset

    strange = [name for name in _folders(place) if name not in names]
    if strange:
        raise DataError(
            f"data.path: {place} has classes that the training images have not: "
            f"{', '.join(strange[:5])}.{nearest(strange[0], names)}"
        )

    def is_image(path: str) -> bool:
        return is_image_file(path) and not os.path.basename(path).startswith(".")  # noqa: PTH119

    index = {name: i for i, name in enumerate(names)}
    found = make_dataset(place, index, is_valid_file=is_image, allow_empty=True)
    labels = np.array([label for _, label in found], dtype=np.int64)
    empty = [name for i, name in enumerate(names) if not (labels == i).any()]
    if not len(labels) or (all_classes and empty):
        raise DataError(
            f"data.path: no image in {', '.join(str(place / n) for n in empty[:5])}; a class needs "
            "images (.jpg, .png, .webp and so on)"
        )
    return RawSplit([path for path, _ in found], labels)
