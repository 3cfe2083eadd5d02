"""What can be said about a job before it costs time, and options that have no effect."""

from __future__ import annotations

from pathlib import Path

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.data.sources import check_source
from scpl_ray.data.word_vectors import load_word_vectors
from scpl_ray.elastic.plan import first_impossible, planned_changes
from scpl_ray.engine.base import DataReady
from scpl_ray.errors import ConfigError, DataError, unknown
from scpl_ray.models.growth import extend
from scpl_ray.models.registry import KINDS, build_model, import_factory
from scpl_ray.models.text import WordVectors
from scpl_ray.partition import partition


def check_before(config: Config) -> None:
    """Checks what needs neither data nor Ray.

    Raises:
        ConfigError: model, stages or overrides that cannot work.
        DataError: an unknown source or a missing file.
    """
    model = config.model
    if model.factory:
        import_factory(model.factory)
    elif model.kind not in KINDS:
        raise ConfigError(unknown("model.kind", model.kind, KINDS))
    else:
        # Only described, not built: the names do not depend on the data.
        some = DataInfo("", "", KINDS[model.kind], (), {}, image_shape=(1, 32, 32))
        stages = partition(build_model(config, some).names, _given(config))
        for number in config.optimizer.stages:
            if number > len(stages):
                raise ConfigError(
                    f"optimizer.stages: {number} is not a stage; allowed: 1 to {len(stages)}"
                )
        for number in {} if config.replicas == "auto" else config.replicas:
            if number > len(stages):
                raise ConfigError(f"replicas: {number} is not a stage; allowed: 1 to {len(stages)}")
        start = config.elastic.start_stages
        if start is not None and start > len(stages):
            raise ConfigError(
                f"elastic.start_stages: {start} is more than the {len(stages)} stages of the "
                f"config; allowed: 1 to {len(stages)}"
            )
    check_grown(config)
    check_source(config.data)
    if model.word_vectors and not Path(model.word_vectors).is_file():
        raise DataError(f"model.word_vectors: no file {model.word_vectors!r}; give its path")


def _given(config: Config) -> int | list[int] | None:
    """The cut, or the finest one where it will be measured."""
    return None if isinstance(config.stages, str) else config.stages


def check_grown(config: Config) -> None:
    """Checks `model.grown` as `grow` would have: key by key.

    Raises:
        ConfigError: a key that cannot differ, or a value that is not accepted.
    """
    before = config.model_copy(update={"model": config.model.model_copy(update={"grown": []})})
    for joined in config.model.grown:
        before = extend(before, joined.layers, joined.change)


def check_elastic(config: Config, steps_per_epoch: int, start: int) -> list[str]:
    """Returns the planned changes that never come.

    Args:
        config: `elastic` and `train` are read.
        steps_per_epoch: training steps of an epoch.
        start: stages at the start.

    Raises:
        ConfigError: a planned shrink would leave no stage.
    """
    total = steps_per_epoch * config.train.epochs
    changes = planned_changes(config.elastic, steps_per_epoch)
    bad = first_impossible(start, [c for c in changes if c.step < total])
    if bad is not None:
        raise ConfigError(
            f"elastic.{bad.kind}_at: the change before step {bad.step} (of {total}, "
            f"{steps_per_epoch} an epoch) would leave no stage; a job needs one"
        )
    return [
        f"elastic.{c.kind}_at: step {c.step} has no effect: training ends after step {total - 1} "
        f"({steps_per_epoch} steps an epoch)"
        for c in changes
        if c.step >= total
    ]


def check_until(until: int | None, config: Config, steps_per_epoch: int) -> int | None:
    """Returns the step after which a run ends, if it ends before the last.

    Raises:
        ConfigError: there is no such step.
    """
    total = steps_per_epoch * config.train.epochs
    if until is not None and until >= total:
        raise ConfigError(
            f"--from-step: {until} is no step of this run; allowed: 0 to {total - 1} "
            f"({steps_per_epoch} an epoch)"
        )
    return until


def check_data(config: Config, ready: DataReady, num_stages: int) -> list[str]:
    """Returns what was left out, options without effect, and settings that seldom work."""
    info, warnings = ready.info, []
    dropped = ", ".join(f"{n:,} {split}" for split, n in ready.dropped.items() if n)
    if dropped:
        warnings.append(f"samples without a word after cleaning are left out: {dropped}")
    batch = config.train.batch_size
    # Two views of a sample are each other's positives.
    if batch < 4 * info.num_classes and info.views == 1:
        warnings.append(
            f"train.batch_size: {batch} is below four times the {info.num_classes} classes: many "
            "samples have no positive in their batch, and the contrastive loss learns little"
        )
    if ready.steps_per_epoch == 1 and config.pipeline.in_flight != 1:
        warnings.append("an epoch is a single step: lower train.batch_size to fill the pipeline")
    if config.train.select == "best" and ready.validation_batches == 0:
        warnings.append("train.select: best has no effect without a validation split")
    if config.model.word_vectors and (info.kind != "text" or config.model.factory):
        warnings.append("model.word_vectors has no effect: only the built-in text models use it")
    for key in ("augment", "image_size", "pixel_mean", "pixel_std"):
        default = type(config.data).model_fields[key].default
        if info.kind == "text" and getattr(config.data, key) != default:
            warnings.append(f"data.{key} has no effect: only images have pixels")
    if config.local.pool and info.kind == "text":
        warnings.append("local.pool has no effect: text has no feature maps")
    for number in () if config.replicas == "auto" else config.replicas:
        if number > num_stages:
            warnings.append(
                f"replicas: stage {number} is not among the {num_stages} stages of the start: its "
                "replicas come if it joins"
            )
    window = config.pipeline.window(num_stages)
    if config.pipeline.engine == "ray" and window < num_stages:
        warnings.append(
            f"pipeline.in_flight: {window} is below the {num_stages} stages: "
            "they cannot all work at once"
        )
    return warnings


def make_vectors(config: Config, info: DataInfo) -> WordVectors | None:
    """Reads `model.word_vectors` for the vocabulary of the data."""
    path = config.model.word_vectors
    if path is None or info.kind != "text" or config.model.factory:
        return None
    width = config.model.embedding_width or config.model.width
    return load_word_vectors(path, info.tokenizer, width)
