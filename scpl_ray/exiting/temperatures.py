"""The exits' temperatures beside a run: RUN/temperatures.json. No torch: commands import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scpl_ray.errors import CheckpointError
from scpl_ray.run_folder import CHECKPOINT, find_run, fingerprint, write_atomically

FILE = "temperatures.json"


class ExitTemperature(BaseModel):
    """What was fitted for one exit; fields as of `calibration.Fitted`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    loss_before: float
    loss_after: float
    ece_before: float
    ece_after: float


class TemperatureFile(BaseModel):
    """The whole file.

    Attributes:
        format: of the file.
        checkpoint_sha256: of the manifest of the checkpoint whose exits these are.
        split: what was fitted on, with so many `samples`.
        exits: one each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    checkpoint_sha256: str
    split: Literal["validation"] = "validation"
    samples: int
    exits: list[ExitTemperature]


@dataclass(frozen=True)
class Temperatures:
    """Which temperatures are in use.

    Attributes:
        values: by the number of the exit's stage; empty: none are.
        said: one line for the user; empty where there is nothing to say.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    said: str = ""


def save(folder: Path, exits: list[ExitTemperature], samples: int) -> Path:
    """Writes a run's file and returns its path.

    Args:
        folder: the run's.
        exits: as fitted.
        samples: of the validation split.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    file = TemperatureFile(
        checkpoint_sha256=fingerprint(folder / CHECKPOINT), samples=samples, exits=exits
    )
    path = folder / FILE
    try:
        write_atomically(path, (file.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error
    return path


def in_use(folder: Path, wish: bool | None = None) -> Temperatures:
    """Decides which temperatures a command uses.

    Args:
        folder: the run's.
        wish: True: they must be there; False: none; None: those that are there and fit.

    Raises:
        CheckpointError: the file is damaged; or they are wished for and are not there, or were
            fitted for another checkpoint.
    """
    path = folder / FILE
    if wish is False:
        return Temperatures()
    if not path.is_file():
        if wish:
            raise CheckpointError(f"no {path}; fit it with: scpl-ray eval {folder} --calibrate")
        return Temperatures()
    file = _read(path)
    if file.checkpoint_sha256 != fingerprint(folder / CHECKPOINT):
        text = (
            f"{path} was fitted for another checkpoint of this run; fit it again with: scpl-ray "
            f"eval {folder} --calibrate"
        )
        if wish:
            raise CheckpointError(text)
        return Temperatures(said=f"temperatures are not used: {text}")
    return Temperatures(
        {e.stage: e.temperature for e in file.exits},
        f"exits are calibrated with {path} (--no-temperatures leaves it out)",
    )


def of_run(run: str | Path, wish: bool | None = None) -> Temperatures:
    """As `in_use`, of a run by its folder or name, or of a folder that was exported.

    Raises:
        CheckpointError: as `in_use`; or there is no such run.
    """
    from scpl_ray.exporting.folder import CONFIG, folder_temperatures, is_exported

    path = Path(run)
    if not is_exported(path):
        return in_use(find_run(run), wish)
    values = {} if wish is False else folder_temperatures(path)
    if wish and not values:
        raise CheckpointError(
            f"{path} was exported without temperatures; fit them (scpl-ray eval RUN --calibrate) "
            "and export the run again"
        )
    said = f"exits are calibrated with {path / CONFIG} (--no-temperatures leaves it out)"
    return Temperatures(values, said if values else "")


def _read(path: Path) -> TemperatureFile:
    try:
        return TemperatureFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise CheckpointError(f"{path} cannot be used: {reason}; fit it again") from error
