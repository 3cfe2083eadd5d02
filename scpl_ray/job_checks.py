"""What can be said about a job before it costs time, and options that have no effect."""

from __future__ import annotations

from pathlib import Path

from scpl_ray.callbacks.registry import callback_classes
from scpl_ray.config import Config
from scpl_ray.config.schema import LocalConfig
from scpl_ray.data.batch import DataInfo
from scpl_ray.data.sources import check_source
from scpl_ray.data.word_vectors import load_word_vectors
from scpl_ray.elastic.plan import first_impossible, planned_changes
from scpl_ray.engine.base import DataReady
from scpl_ray.errors import ConfigError, DataError
from scpl_ray.models.growth import extend
from scpl_ray.models.keys import without_effect
from scpl_ray.models.registry import build_model, fitting_info, import_factory
from scpl_ray.models.text import WordVectors
from scpl_ray.objective import check_options, is_end_to_end, why_fixed
from scpl_ray.objectives import objective_class
from scpl_ray.partition import partition


def check_before(config: Config) -> None:
    """Checks what needs neither data nor Ray.

    Raises:
        ConfigError: model, stages or overrides that cannot work.
        DataError: an unknown source or a missing file.
    """
    check_method(config)
    callback_classes(config.callbacks)
    model = config.model
    if model.factory:
        import_factory(model.factory)
    else:
        # Only described, not built: the names do not depend on the data.
        some = fitting_info(model)
        stages = partition(build_model(config, some).names, _given(config))
        check_border(config, len(stages))
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


def check_method(config: Config) -> None:
    """Checks the local objective.

    Raises:
        ConfigError: one that cannot be imported, or whose stages cannot change as planned.
    """
    check_options(config)
    why, elastic = why_fixed(config.method), config.elastic
    plans = {
        "start_stages": elastic.start_stages is not None,
        "grow_at": elastic.grow_at.epoch or elastic.grow_at.step,
        "shrink_at": elastic.shrink_at.epoch or elastic.shrink_at.step,
        "grow_when": elastic.grow_when is not None,
    }
    for key, planned in plans.items():
        if why and planned:
            raise ConfigError(f"elastic.{key}: {why}. Leave it out, or choose another method")


def check_border(config: Config, num_stages: int) -> None:
    """Checks what cannot be where gradients cross the borders of stages.

    Raises:
        ConfigError: the method trains end to end, there are several stages, and a key does not go
            with that.
    """
    if num_stages == 1 or not is_end_to_end(config.method):
        return
    why = f"method {config.method!r} trains {num_stages} stages end to end"
    if config.replicas:
        raise ConfigError(
            f"replicas: {why}: they would need each other's gradients. Leave it out, or choose a "
            "method with local losses"
        )
    if config.fault_tolerance.on_nonfinite == "skip":
        raise ConfigError(
            f"fault_tolerance.on_nonfinite: {why}, and one of them cannot leave a batch out alone; "
            "allowed: stop"
        )


def _end_to_end(config: Config) -> list[str]:
    """What is different where gradients cross borders."""
    said = [
        f"method {config.method!r} trains end to end: each stage waits for the gradient of the one "
        "behind, so the stages take turns; a stage without an exit has no loss of its own, and "
        "shows 0"
    ]
    if config.train.clip_norm is not None:
        said.append("train.clip_norm: each stage clips by its own norm, not by the network's")
    if config.pipeline.batches_per_call not in ("auto", 1):
        said.append("pipeline.batches_per_call has no effect: a batch goes back before the next")
    return said


def _idle_options(config: Config) -> list[str]:
    """Keys of `local` that are not at their default, and that the method does not read."""
    read = objective_class(config.method).reads
    if read is None:
        return []
    default = LocalConfig()
    return [
        f"local.{key} has no effect with method {config.method!r}"
        for key in LocalConfig.model_fields
        if key not in (*read, "pool") and getattr(config.local, key) != getattr(default, key)
    ]


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
    check_border(config, num_stages)
    if num_stages > 1 and is_end_to_end(config.method):
        warnings += _end_to_end(config)
    warnings += _idle_options(config)
    batch = config.train.batch_size
    # Two views of a sample are each other's positives.
    alone = objective_class(config.method).needs_positives and info.views == 1
    if alone and batch < 4 * info.num_classes:
        warnings.append(
            f"train.batch_size: {batch} is below four times the {info.num_classes} classes: many "
            "samples have no positive in their batch, and the contrastive loss learns little"
        )
    if ready.steps_per_epoch == 1 and config.pipeline.in_flight != 1:
        warnings.append("an epoch is a single step: lower train.batch_size to fill the pipeline")
    if config.train.select == "best" and ready.validation_batches == 0:
        warnings.append("train.select: best has no effect without a validation split")
    warnings += without_effect(config, info.kind)
    for key in ("augment", "image_size", "pixel_mean", "pixel_std"):
        default = type(config.data).model_fields[key].default
        if info.kind == "text" and getattr(config.data, key) != default:
            warnings.append(f"data.{key} has no effect: only images have pixels")
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
    if path is None or config.model.factory or config.model.kind not in ("transformer", "lstm"):
        return None
    width = config.model.embedding_width or config.model.width
    return load_word_vectors(path, info.tokenizer, width)
