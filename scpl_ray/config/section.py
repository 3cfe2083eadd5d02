"""What all sections of the config are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from scpl_ray.errors import nearest

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A frozen section; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def auto_or(value: Any, others: str) -> Any:
    """Words what else a key takes where it is a word but `auto`."""
    if isinstance(value, str) and value != "auto" and not value.isdigit():
        raise ValueError(f"allowed: auto, {others}.{nearest(value, ['auto'])}")
    return value
