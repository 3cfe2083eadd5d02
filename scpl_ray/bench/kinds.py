"""Ways of end-to-end backpropagation, by name, and what each asks of a config. No torch.

- `bp`: one process, all cores; `bp-one-core`: one process, one thread;
- `gpipe` (Huang et al. 2019, arXiv 1811.06965), `1f1b` (PipeDream; Narayanan et al. 2021, arXiv
  2104.04473), `zero-bubble` (ZB-H1 of Qi et al. 2023, arXiv 2401.10241): one process a stage.
"""

from __future__ import annotations

from scpl_ray.config import Config
from scpl_ray.errors import ConfigError

ONE_PROCESS = ("bp", "bp-one-core")
PIPELINED = ("gpipe", "1f1b", "zero-bubble")
KINDS = (*ONE_PROCESS, *PIPELINED)

_MICRO = (1, 2, 4, 8, 16)


def takes(kind: str, micro: int, stages: int) -> bool:
    """Whether torch's schedule takes a number of micro-batches.

    Its 1F1B takes no fewer than there are stages; its zero-bubble works in rounds of at least as
    many as there are stages, of equal size.
    """
    if kind == "1f1b":
        return micro >= stages
    return kind != "zero-bubble" or micro % max(1, micro // stages) == 0


def of_rows(kind: str, rows: int, most: int, stages: int) -> int | None:
    """The most micro-batches, up to `most`, that divide so many rows; None: torch takes none."""
    fitting = (m for m in range(most, 0, -1) if rows % m == 0 and takes(kind, m, stages))
    return next(fitting, None)


def micro_batches(kind: str, batch: int, stages: int) -> list[int]:
    """Numbers of micro-batches to try: those that divide the batch and that torch takes.

    Args:
        kind: one of PIPELINED.
        batch: samples of a batch.
        stages: of the pipeline.

    Raises:
        ConfigError: the batch cannot be divided so.
    """
    least = stages if kind == "1f1b" else 1
    allowed = [m for m in _MICRO if takes(kind, m, stages)]
    if not allowed:
        raise ConfigError(
            f"stages: {kind} needs as many micro-batches as stages ({stages}), and no more than "
            f"{_MICRO[-1]} are tried; take fewer stages"
        )
    sizes = [m for m in allowed if batch % m == 0]
    if not sizes:
        known = ", ".join(str(m) for m in allowed)
        raise ConfigError(
            f"train.batch_size: {batch} cannot be divided into {least} or more micro-batches of "
            f"{kind}; allowed: a multiple of one of {known}"
        )
    return sizes


def check_kind(kind: str, config: Config, layers: list[tuple[str, ...]]) -> None:
    """Checks that a network can be trained so.

    Args:
        kind: one of KINDS.
        config: the job.
        layers: of each stage.

    Raises:
        ConfigError: it cannot.
    """
    if kind in PIPELINED:
        if len(layers) < 2:
            raise ConfigError(
                f"stages: {kind} is a pipeline of at least 2 stages, but the network of "
                f"{len(layers[0])} layers is cut into 1; raise stages or model.layers, or leave "
                f"{kind} out"
            )
        micro_batches(kind, config.train.batch_size, len(layers))
    if kind == "zero-bubble" and config.resources.compile:
        raise ConfigError(
            "resources.compile: true does not go with zero-bubble: torch computes the gradients "
            "of inputs and of weights apart, and cannot in compiled layers. Set it to false, or "
            "leave zero-bubble out"
        )
    if config.model.init_from is not None:
        raise ConfigError(
            f"model.init_from: {config.model.init_from!r} does not go with {kind}: it starts from "
            "new weights; leave it out"
        )
