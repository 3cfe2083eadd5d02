"""The JSON of requests and answers: pydantic models, made for the limits and classes of a run."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from scpl_ray.serving.settings import Settings, most_of


class Exit(BaseModel):
    """One exit on the way."""

    stage: int = Field(description="Number of the stage, from 1.")
    label: str = Field(description="The most probable label at this exit.")
    probability: float = Field(description="Of that label.")
    certainty: float = Field(description="The measure that is held against the threshold.")
    answers: bool = Field(description="Whether this exit answered; then no stage after it ran.")
    probabilities: dict[str, float] = Field(description="Of the five most probable labels.")


class Answer(BaseModel):
    """The answer to one input."""

    label: str
    probability: float
    exit: int = Field(description="Number of the stage whose exit answered.")
    exits: list[Exit] = Field(description="The exits that were asked, in order.")


class Answers(BaseModel):
    """The answers, in the order of the inputs."""

    run: str
    measure: str
    threshold: float
    early_exit: bool
    answers: list[Answer]


class FieldError(BaseModel):
    """What is wrong with a request."""

    field: str = Field(description="Where: inputs[3], threshold, body, header Authorization.")
    message: str


class Errors(BaseModel):
    """The body of every status from 400 on."""

    errors: list[FieldError]


class Health(BaseModel):
    """Whether all stages can answer."""

    status: str = Field(description="ok, or degraded: a stage has no replica just now.")
    running: dict[str, int] = Field(description="Replicas that run, by stage.")


class Options(BaseModel):
    """What a request may choose; the base of `request_model`'s."""

    model_config = ConfigDict(extra="forbid")

    threshold: float
    early_exit: bool


def options_model(settings: Settings, classes: int) -> type[Options]:
    """A request's options, with the bounds that hold for a run."""
    most = most_of(settings.measure, classes)
    sure = "or more" if settings.measure == "confidence" else "or less"
    threshold = Field(
        default=settings.threshold,
        ge=0,
        le=most,
        allow_inf_nan=False,
        description=f"An exit answers whose {settings.measure} is this {sure}.",
    )
    early = Field(default=True, description="false: every stage is run, the last exit answers.")
    fields: dict[str, Any] = {"threshold": (float, threshold), "early_exit": (bool, early)}
    return create_model("PredictOptions", __base__=Options, **fields)


def request_model(settings: Settings, kind: str, classes: int) -> type[Options]:
    """The body of a JSON request.

    Args:
        settings: the limits.
        kind: "text" or "image".
        classes: number of classes.
    """
    limits = settings.limits
    if kind == "text":
        one: Any = Annotated[str, Field(max_length=limits.text_chars)]
        words = "Texts."
    else:
        one, words = str, "Images: base64 of a PNG, JPEG, WebP, GIF or BMP file; or a data: URL."
    inputs = Field(min_length=1, max_length=limits.inputs, description=words)
    return create_model(
        "PredictRequest",
        __base__=options_model(settings, classes),
        __doc__="Inputs to be answered.",
        inputs=(list[one], inputs),
    )
