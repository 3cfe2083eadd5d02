"""Small image data sets in the published forms, written by the tests."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pixels(count: int, seed: int, size: int = 32) -> np.ndarray:
    """Random colours [N, H, W, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def write_cifar(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 40, classes: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Writes the published pickles of CIFAR, and puts their checksums in place of the published.

    Returns:
        train [N, H, W, 3] and labels, test and labels.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    made, lists = [], {}
    for split, files in (("train_list", kind.train_list), ("test_list", kind.test_list)):
        images = pixels(count, len(split))
        labels = np.arange(count) % classes
        # Row by row: 1,024 reds, 1,024 greens, 1,024 blues.
        rows = images.transpose(0, 3, 1, 2).reshape(count, 3072)
        lists[split] = []
        for (file, _), part in zip(
            files, np.array_split(np.arange(count), len(files)), strict=True
        ):
            batch = {"data": rows[part], key: labels[part].tolist(), "filenames": ["x"] * len(part)}
            (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
            lists[split].append([file, _md5(folder / file)])
        made += [images, labels]
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [f"c{i}" for i in range(classes)]}))
    for split, files in lists.items():
        monkeypatch.setattr(kind, split, files)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": _md5(meta)})
    return tuple(made)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_tiny_imagenet(root: Path, classes: int = 3, each: int = 10) -> Path:
    """Writes the published folders of Tiny-ImageNet: 64 x 64, one colour for each class."""
    folder = root / "tiny-imagenet-200"
    names = [f"n0{i}" for i in range(classes)]
    for i, name in enumerate(names):
        for n in range(each):
            colour = np.full((64, 64, 3), 40 * i, np.uint8)
            save(folder / "train" / name / "images" / f"{name}_{n}.JPEG", colour)
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t9\t9\n")
    lines = []
    for n in range(classes * 2):
        label = (classes - 1 - n) % classes
        # Some of the published files are grey.
        colour = np.full((64, 64), 40 * label, np.uint8)
        save(folder / "val" / "images" / f"val_{n}.JPEG", colour)
        lines.append(f"val_{n}.JPEG\t{names[label]}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    save(folder / "test" / "images" / "test_0.JPEG", colour)
    (folder / "wnids.txt").write_text("\n".join(reversed(names)))
    return folder


def write_folder(
    root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("cat", "dog"), size: int = 8
) -> Path:
    """Writes PATH/SPLIT/CLASS/*.png ("" for no split): each image one grey value of its own."""
    for split, each in splits.items():
        for c, name in enumerate(classes):
            for n in range(each):
                grey = np.full((size, size, 3), 100 * c + n, np.uint8)
                save(root / split / name / f"{n:02d}.png", grey)
    return root
