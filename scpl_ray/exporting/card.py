"""The model card: what a run's folder says, as the README of an exported one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from scpl_ray.checkpoint import Checkpoint

_FACTS = ("seed", "method", "stages", "model", "local", "optimizer", "train")
_SHOWN_LABELS = 50

_USE = """\
```python
import scpl_ray
from scpl_ray.early_exit import Rule

network = scpl_ray.load(".")  # this folder; a torch module: one list of logits for each exit

predictor = scpl_ray.Predictor(".", Rule(0.9{temperatures}))
{example}
```
"""
_TEXTS = """\
for answer in predictor.texts(["a text", "another one"]):
    print(answer.label, answer.probability, answer.stage)"""
_IMAGES = """\
for answer in predictor.images(["image.png"]):
    print(answer.label, answer.probability, answer.stage)"""

_CARD = """\
---
license: {license}
library_name: scpl-ray
pipeline_tag: {task}
tags:
- scpl-ray
- early-exit
- local-learning
metrics:
- accuracy
---

# {name}

A classifier of {kind}s with {num_exits}, trained with scpl-ray by the method `{method}`{layers}.

## Use

{use}
Or on the command line: `scpl-ray predict . {input} --threshold 0.9`.

{preprocessing}

## Early exit

With `Rule(0.9)` an input leaves at the first exit whose probability is 0.9 or more; the stages
behind it are not run for it. `answer.stage` says which one it was. Without a rule the last exit
answers. {calibration}

## Accuracy of each exit

{accuracy}

## Data

{data}

Labels: {labels}.

## Training

{training}

```yaml
{config}```

## Licence

{licence}
"""


def model_card(
    checkpoint: Checkpoint,
    summary: dict[str, Any] | None,
    license: str,
    temperatures: Mapping[int, float],
) -> str:
    """Writes the card.

    Args:
        checkpoint: of the run, its paths left out.
        summary: the run's summary.json; None: it has none.
        license: of the weights, as the Hub writes it; "unknown": not stated.
        temperatures: of the exits, by the number of the stage.
    """
    config, info = checkpoint.config, checkpoint.info
    text = info.kind == "text"
    exits = sum(spec.with_exit for spec in checkpoint.specs)
    scale = f", temperatures={dict(temperatures)}" if temperatures else ""
    return _CARD.format(
        license=license,
        task="text-classification" if text else "image-classification",
        name=config.name,
        kind=info.kind,
        num_exits="one exit" if exits == 1 else f"{exits} exits",
        method=config.method,
        layers=f" in {len(checkpoint.specs)} stages",
        use=_USE.format(temperatures=scale, example=_TEXTS if text else _IMAGES),
        input='"a text"' if text else "image.png",
        preprocessing=_preprocessing(checkpoint),
        calibration=_calibration(temperatures),
        accuracy=_accuracy(checkpoint, summary),
        data=_data(checkpoint, summary),
        labels=_labels(info.label_names),
        training=_training(checkpoint, summary),
        config=_config(checkpoint),
        licence=_licence(license, summary),
    )


def _preprocessing(checkpoint: Checkpoint) -> str:
    info = checkpoint.info
    if info.kind == "text":
        return (
            f"Texts are encoded by `tokenizer.json` ({info.vocab_size} token ids) and cut at "
            f"{info.max_len} tokens. It is a file of the package `tokenizers`."
        )
    channels, height, width = info.image_shape
    colours = "RGB" if channels == 3 else "greyscale"
    return (
        f"Images are brought to {width} x {height} pixels, {colours}: the image is scaled until it "
        "covers that, and what sticks out is cut off on both sides; then normalised as "
        "`preprocessor_config.json` says."
    )


def _calibration(temperatures: Mapping[int, float]) -> str:
    if temperatures:
        return "The logits of each exit are divided by its temperature, fitted on validation data."
    return "The exits are not calibrated: their probabilities may be too sure or not sure enough."


def _accuracy(checkpoint: Checkpoint, summary: dict[str, Any] | None) -> str:
    rows = [r for r in (summary or {}).get("exits", []) if r.get("test_accuracy") is not None]
    if not rows:
        return "Not known: the run's folder has no test results."
    behind = {spec.number: ", ".join(spec.layers) for spec in checkpoint.specs}
    lines = ["| exit at stage | layers of the stage | validation | test |", "|---|---|---|---|"]
    for row in rows:
        values = (row.get("validation_accuracy"), row["test_accuracy"])
        shown = ("not known" if v is None else f"{100 * v:.2f} %" for v in values)
        layers = behind.get(row["stage"], "")
        lines.append(f"| {row['stage']} | {layers} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _data(checkpoint: Checkpoint, summary: dict[str, Any] | None) -> str:
    info = checkpoint.info
    sizes = ", ".join(f"{size} {split}" for split, size in info.sizes.items())
    said = [f"`{info.name}`: {info.source or 'source not known'}. Samples: {sizes}."]
    if info.notice:
        said.append(f"{info.notice}.")
    noise = (summary or {}).get("data", {}).get("wrong_labels") or 0
    if noise:
        said.append(f"{noise} training labels were made wrong on purpose (label noise).")
    return " ".join(said)


def _labels(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN_LABELS])
    more = len(names) - _SHOWN_LABELS
    return f"{shown} and {more} more (`id2label` in `config.json`)" if more > 0 else shown


def _training(checkpoint: Checkpoint, summary: dict[str, Any] | None) -> str:
    said = [f"{checkpoint.step} steps"]
    if summary:
        said = [f"{summary['steps']} steps in {summary['epochs']} epochs"]
        said.append(f"{summary['train_seconds']:.0f} s on {len(checkpoint.specs)} stages")
        known = {k: v for k, v in summary["versions"].items() if v != "not installed"}
        said.append("with " + ", ".join(f"{name} {known[name]}" for name in known))
        if summary.get("status") != "finished":
            said.append(f"the run's status is {summary.get('status')!r}")
    return "; ".join(said) + "."


def _config(checkpoint: Checkpoint) -> str:
    tree = checkpoint.config.model_dump(mode="json", include=set(_FACTS), exclude_defaults=True)
    ordered = {key: tree[key] for key in _FACTS if key in tree}
    return yaml.safe_dump(ordered, sort_keys=False) if ordered else "# the defaults\n"


def _licence(license: str, summary: dict[str, Any] | None) -> str:
    weights = (
        "The licence of these weights is not stated; who publishes them must choose one."
        if license == "unknown"
        else f"The weights: {license}."
    )
    return f"{weights} The data have a licence of their own. scpl-ray itself: Apache-2.0."
