"""Symmetric label noise: a share of the training labels is drawn anew."""

from __future__ import annotations

from dataclasses import replace

from scpl_ray.data.raw import RawData
from scpl_ray.rng import numpy_generator


def add_label_noise(raw: RawData, share: float, seed: int) -> RawData:
    """Replaces training labels by a uniform draw over all classes, the true one among them.

    Hence the share that is wrong is about share * (C - 1) / C; the notice says both. Validation
    and test labels stay as they are.

    Args:
        raw: data with all splits.
        share: of the training labels to replace; 0: none.
        seed: decides which, and by what.
    """
    if not share:
        return raw
    train, classes = raw.splits["train"], len(raw.label_names)
    labels = train.labels.copy()
    draw = numpy_generator(seed, "label_noise")
    rows = draw.permutation(len(labels))[: round(share * len(labels))]
    labels[rows] = draw.integers(classes, size=len(rows))
    wrong = int((labels != train.labels).sum())
    said = (
        f"label noise (data.label_noise): {len(rows):,} of {len(labels):,} training labels "
        f"({share:.1%}) were replaced by a uniform draw over {classes} classes; {wrong:,} "
        f"({wrong / len(labels):.1%}) are wrong. Validation and test labels are clean"
    )
    return replace(
        raw,
        splits={**raw.splits, "train": replace(train, labels=labels)},
        notice="; ".join(filter(None, [raw.notice, said])),
        wrong_labels=wrong,
    )
