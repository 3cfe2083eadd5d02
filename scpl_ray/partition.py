"""Layers -> stages: which consecutive layers each stage holds. Pure."""

from __future__ import annotations

from scpl_ray.errors import ConfigError


def partition(
    names: tuple[str, ...], stages: int | list[int] | str | None
) -> list[tuple[str, ...]]:
    """Cuts the ordered layer names into stages.

    Args:
        names: all layers, in order.
        stages: layers per stage; or a number of stages, cut evenly (earlier stages take the
            remainder); or None, one stage per layer. "auto" must have been measured.

    Returns:
        The layer names of each stage.

    Raises:
        ConfigError: the list does not add up, or there are more stages than layers.
    """
    total = len(names)
    if isinstance(stages, str):
        raise ConfigError(
            f"stages: {stages}: the layers have not been measured; only train and bench measure "
            "them. Give layers of each stage, or a number of stages"
        )
    if stages is None:
        sizes = [1] * total
    elif isinstance(stages, int):
        if stages > total:
            raise ConfigError(
                f"stages: {stages} is more than the {total} layers of the model "
                f"({', '.join(names)}); allowed: 1 to {total}"
            )
        sizes = [total // stages + (i < total % stages) for i in range(stages)]
    else:
        sizes = list(stages)
        if sum(sizes) != total:
            raise ConfigError(
                f"stages: {sizes} adds up to {sum(sizes)} layers, but the model has {total} "
                f"({', '.join(names)}); change stages or model.layers"
            )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [names[start : start + size] for start, size in zip(starts, sizes, strict=True)]
