"""From inputs to answers, batch by batch, in a stream: `scpl_ray.predict`."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scpl_ray.early_exit import Measure, Rule
from scpl_ray.errors import ConfigError
from scpl_ray.exiting.temperatures import of_run
from scpl_ray.network import Network
from scpl_ray.predicting.inputs import Item, Source, find_sources
from scpl_ray.predictor import Prediction, Predictor, Result, last_exit


@dataclass(frozen=True)
class Answer:
    """An input, and what came of it.

    Attributes:
        item: the input.
        result: a `Prediction`, or `Refused` with the reason.
    """

    item: Item
    result: Result

    def row(self) -> dict[str, Any]:
        """A flat row of a table; `exit` is the stage that answered, `error` the reason why none.

        `file` and `row` (from 1) say where in a file of texts the input stands.
        """
        item, result = self.item, self.result
        row: dict[str, Any] = {
            "input": str(item.value),
            "file": item.file or None,
            "row": item.row or None,
        }
        if isinstance(result, Prediction):
            answered = {"label": result.label, "probability": round(result.probability, 6)}
            return row | answered | {"exit": result.stage, "error": None}
        return row | {"label": None, "probability": None, "exit": None, "error": result.error}

    def tree(self, labels: Sequence[str]) -> dict[str, Any]:
        """The row, and what each exit said that was asked.

        Args:
            labels: names of the classes.
        """
        exits = []
        if isinstance(self.result, Prediction):
            for stage, own in self.result.probabilities.items():
                best = max(own)
                label = labels[own.index(best)]
                exits.append({"exit": stage, "label": label, "probability": round(best, 6)})
        return self.row() | {"exits": exits}


def predict(
    run: str | Path,
    *inputs: str | Path,
    threshold: float | None = None,
    measure: Measure = "confidence",
    exit: int | None = None,
    temperatures: Mapping[int, float] | None = None,
    text_column: str | None = None,
    batch_size: int | None = None,
    as_text: bool = False,
) -> Iterator[Answer]:
    """Answers texts, files of texts, images, and folders of images.

    Files are read in a stream; nothing is kept but one batch.

    Args:
        run: the run's folder, or its name under `runs/`.
        inputs: what the network was trained on: texts and files of texts (.csv, .tsv, .jsonl,
            .json, .parquet, .txt: one a line); or image files and folders.
        threshold: leave at the first exit that is sure; None: the last exit answers.
        measure: of sureness; see `Rule`.
        exit: this exit answers, the stages behind it are not run.
        temperatures: by the number of the exit's stage; default: the run's, where it is calibrated.
        text_column: of tables; default: that of training.
        batch_size: default: that of evaluation in training.
        as_text: every input is a text, even one that names a file.

    Returns:
        An answer for each input, in their order.

    Raises:
        UserError: a run, a path or a rule that cannot be used. It comes before the first answer,
            but for a file that is damaged further down.
    """
    if temperatures is None:
        found = of_run(run)
        if found.said and not found.values:
            warnings.warn(found.said, stacklevel=2)
        temperatures = found.values
    predictor = Predictor(run)
    predictor.rule = rule_of(predictor.network, threshold, measure, exit, temperatures)
    return answers(predictor, [str(i) for i in inputs], text_column, batch_size, as_text)


def answers(
    predictor: Predictor,
    inputs: Sequence[str],
    text_column: str | None = None,
    batch_size: int | None = None,
    as_text: bool = False,
) -> Iterator[Answer]:
    """As `predict`, with a network that is there already."""
    config = predictor.network.config
    column = text_column or config.data.text_column
    sources = find_sources(inputs, predictor.kind, column, as_text)
    return _stream(predictor, sources, batch_size or config.evaluate.batch_size)


def _stream(predictor: Predictor, sources: Sequence[Source], batch_size: int) -> Iterator[Answer]:
    answer = predictor.texts if predictor.kind == "text" else predictor.images
    items = itertools.chain.from_iterable(source() for source in sources)
    while batch := list(itertools.islice(items, batch_size)):
        found = answer([item.value for item in batch])
        yield from (Answer(item, own) for item, own in zip(batch, found, strict=True))


def rule_of(
    network: Network,
    threshold: float | None = None,
    measure: Measure = "confidence",
    exit: int | None = None,
    temperatures: Mapping[int, float] | None = None,
) -> Rule:
    """The rule that options ask for.

    Args:
        network: that is to follow it.
        threshold: leave at the first exit that is sure; None: the last exit answers.
        measure: of sureness; see `Rule`.
        exit: this exit answers.
        temperatures: by the number of the exit's stage.

    Raises:
        ConfigError: a threshold out of bounds, no such exit, or both.
    """
    scale = dict(temperatures or {})
    if exit is not None:
        if threshold is not None:
            raise ConfigError("--exit and --threshold exclude each other: choose one")
        if exit not in network.exits:
            allowed = ", ".join(map(str, network.exits))
            raise ConfigError(f"--exit: stage {exit} has no exit; allowed: {allowed}")
        return Rule(0.0, temperatures=scale, exits=frozenset({exit}))
    if threshold is None:
        return Rule(last_exit().threshold, temperatures=scale, exits=frozenset())
    most = 1.0 if measure == "confidence" else math.log(network.info.num_classes)
    if not 0 <= threshold <= most:
        unit = "" if measure == "confidence" else " nats"
        raise ConfigError(f"--threshold: {threshold:g}; {measure} goes from 0 to {most:.4g}{unit}")
    return Rule(threshold, measure, scale)
