"""The HTTP front: /predict, /health, /schema, /openapi.json, and the page. Knows no Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from scpl_ray.data.batch import DataInfo
from scpl_ray.early_exit import Rule
from scpl_ray.models.activation import Activation
from scpl_ray.serving.answers import worded
from scpl_ray.serving.guard import Guard
from scpl_ray.serving.inputs import Invalid, Reader
from scpl_ray.serving.page import page, page_headers
from scpl_ray.serving.refusal import Refused, refusal
from scpl_ray.serving.schema import Answers, Errors, Health, Options
from scpl_ray.serving.settings import Settings
from scpl_ray.serving.trail import Group, Trail, Unavailable

STATUSES = {
    400: "not JSON, or no multipart form",
    401: "token missing or wrong",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "another content type",
    422: "a field does not validate; it is named",
    429: "too many requests of this client; see Retry-After",
    503: "no stage answered in time, or too many requests; see Retry-After",
}


@dataclass(frozen=True)
class Served:
    """What the front asks.

    Attributes:
        run: name of the run.
        info: what the network was trained on.
        rule: the server's; requests may choose another threshold.
        exits: numbers of the stages with an exit.
        stages: number of stages.
        ask: answers a group of samples.
        health: running replicas by stage.
    """

    run: str
    info: DataInfo
    rule: Rule
    exits: list[int]
    stages: int
    ask: Callable[[Group], Awaitable[list[Trail]]]
    health: Callable[[], dict[int, int]]


def make_app(served: Served, settings: Settings) -> FastAPI:
    """Builds the app."""
    reader = Reader(served.info, settings)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Errors, "description": words} for status, words in STATUSES.items()
    }
    app = FastAPI(
        title=f"scpl-ray: {served.run}",
        description="Answers leave at the first exit that is sure.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=errors if settings.token else {k: v for k, v in errors.items() if k != 401},
    )
    app.add_middleware(Guard, settings=settings)
    _handle_errors(app)
    _add_predict(app, served, settings, reader)
    _add_facts(app, served, reader)
    _add_page(app, page(served, settings))
    return app


def _add_predict(app: FastAPI, served: Served, settings: Settings, reader: Reader) -> None:
    @app.post("/predict", response_model=Answers, openapi_extra=_body(reader))
    async def predict(request: Request) -> Response:
        """Answers texts or images."""
        options, inputs = await reader.read(request)
        activation = await asyncio.to_thread(reader.prepare, inputs)
        trails = await _ask_all(served, settings, activation, _rule(served.rule, options))
        answers = worded(served.run, settings.measure, options, served.info.label_names, trails)
        return Response(answers.model_dump_json(), media_type="application/json")


def _add_facts(app: FastAPI, served: Served, reader: Reader) -> None:
    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> JSONResponse:
        """Whether every stage has a replica that runs."""
        running = await asyncio.to_thread(served.health)
        well = all(running.values())
        body = Health(
            status="ok" if well else "degraded", running={str(k): v for k, v in running.items()}
        )
        return JSONResponse(body.model_dump(), 200 if well else 503)

    @app.get("/schema")
    async def schema() -> JSONResponse:
        """JSON Schema of requests and answers."""
        return JSONResponse(
            {
                "request": reader.json_model.model_json_schema(),
                "answer": Answers.model_json_schema(),
                "errors": Errors.model_json_schema(),
            }
        )


def _add_page(app: FastAPI, made: str) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        """The page on which one tries the network."""
        return HTMLResponse(made, headers=page_headers(made))


async def _ask_all(
    served: Served, settings: Settings, activation: Activation, rule: Rule
) -> list[Trail]:
    """Asks for all samples, in groups that fit a batch."""
    import torch

    until = time.time() + settings.limits.answer_s
    rows = torch.arange(len(activation.hidden)).split(settings.max_batch)
    parts = [activation] if len(rows) == 1 else [activation.rows(part) for part in rows]
    found = await asyncio.gather(*(served.ask(Group(part, rule, until)) for part in parts))
    return [trail for part in found for trail in part]


def _rule(rule: Rule, options: Options) -> Rule:
    """The rule of one request; without early exit no exit but the last may answer."""
    exits = rule.exits if options.early_exit else frozenset()
    return Rule(options.threshold, rule.measure, rule.temperatures, exits)


def _body(reader: Reader) -> dict[str, Any]:
    """What OpenAPI says of the body; it is validated by hand, for it has two forms."""
    content: dict[str, Any] = {
        "application/json": {"schema": reader.json_model.model_json_schema()}
    }
    if reader.kind == "image":
        form = reader.form_model.model_json_schema()
        file = {"type": "string", "format": "binary"}
        most = reader.settings.limits.inputs
        form["properties"]["files"] = {
            "type": "array",
            "items": file,
            "minItems": 1,
            "maxItems": most,
        }
        form["required"] = ["files"]
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _handle_errors(app: FastAPI) -> None:
    """Every error has the same form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return error.response()

    @app.exception_handler(Invalid)
    async def invalid(request: Request, error: Invalid) -> JSONResponse:
        return refusal(error.status, error.errors)

    @app.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Unavailable) -> JSONResponse:
        return refusal(503, [("server", f"{error}; try again")], {"Retry-After": "1"})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        # Nobody reads it; without it the log would fill with tracebacks.
        return refusal(400, [("body", "the client hung up")])

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        field = "method" if error.status_code == 405 else "path"
        return refusal(error.status_code, [(field, str(error.detail))], error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return refusal(500, [("server", f"{type(error).__name__}; the server's log says more")])
