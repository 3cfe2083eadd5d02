"""Answers of a trained network to texts and images from outside: label, probability, exit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scpl_ray.early_exit import Answers, Rule, leave_early
from scpl_ray.network import load
from scpl_ray.preprocess import Prepared, Preprocessor

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prediction:
    """The answer to one input.

    Attributes:
        label: name of the class.
        index: of the class, from 0.
        probability: of the class, 0 to 1, after the exit's temperature.
        stage: the stage whose exit answered.
        probabilities: of all classes, by the stage of each exit that saw the input; the one that
            answered is the last.
    """

    label: str
    index: int
    probability: float
    stage: int
    probabilities: dict[int, list[float]] = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """An input that could not be read.

    Attributes:
        error: why.
    """

    error: str


Result = Prediction | Refused


class Predictor:
    """A trained network that answers texts or images.

    Args:
        run_dir: the run's folder, or its name under `runs/`.
        rule: when an exit is sure; None: the last exit answers everything.

    Attributes:
        network: in evaluation mode, on the CPU.
        labels: names of the classes.
        kind: "text" or "image".

    Raises:
        CheckpointError: there is no such run, or its checkpoint is damaged.
    """

    def __init__(self, run_dir: str | Path, rule: Rule | None = None) -> None:
        self.network = load(run_dir, compiled=False)
        self.rule = last_exit() if rule is None else rule
        self.labels, self.kind = self.network.info.label_names, self.network.info.kind
        self.preprocessor = Preprocessor(self.network.info)

    def texts(self, texts: Sequence[str]) -> list[Result]:
        """Answers texts as one batch; in their order.

        Raises:
            DataError: the network was trained on images.
        """
        return self.answer(self.preprocessor.texts(texts))

    def images(self, images: Sequence[str | Path | Image]) -> list[Result]:
        """Answers image files, or images of Pillow, as one batch; in their order.

        Raises:
            DataError: the network was trained on texts.
        """
        return self.answer(self.preprocessor.images(images))

    def answer(self, prepared: Prepared) -> list[Result]:
        """Answers what the preprocessor made ready; what it refused stays refused."""
        results: dict[int, Result] = {i: Refused(why) for i, why in prepared.refused.items()}
        if prepared.rows:
            inputs = {name: torch.from_numpy(a) for name, a in prepared.inputs.items()}
            answers = leave_early(self.network, inputs, self.rule)
            found = predictions(answers, self.labels)
            results.update(zip(prepared.rows, found, strict=True))
        return [results[i] for i in range(len(results))]


def last_exit() -> Rule:
    """The rule by which nothing leaves early."""
    return Rule(1.0, exits=frozenset())


def predictions(answers: Answers, labels: Sequence[str]) -> list[Prediction]:
    """Words the answers to a batch.

    Args:
        answers: of `leave_early`.
        labels: names of the classes.
    """
    seen: list[dict[int, list[float]]] = [{} for _ in answers.stages]
    for stage, (rows, logits) in answers.seen.items():
        for row, own in zip(rows.tolist(), logits.softmax(1).tolist(), strict=True):
            seen[row][stage] = own
    found = []
    best = answers.logits.softmax(1).max(1)
    for i, (probability, index, stage) in enumerate(
        zip(best.values.tolist(), best.indices.tolist(), answers.stages.tolist(), strict=True)
    ):
        found.append(Prediction(labels[index], index, probability, stage, seen[i]))
    return found
