"""Every refusal has one form: a status, and a JSON body that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        field: what of the request is wrong: `inputs[3]`, `body`, a header.
        message: why, and what would be right.
        headers: further headers.
    """

    def __init__(
        self, status: int, field: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, field, message)
        self.status, self.field, self.message = status, field, message
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """As it is sent."""
        return refusal(self.status, [(self.field, self.message)], self.headers)


def refusal(
    status: int, errors: Sequence[tuple[str, str]], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A response that names (field, message) of everything that is wrong."""
    rows = [{"field": field, "message": message} for field, message in errors]
    return JSONResponse({"errors": rows}, status, dict(headers or {}))
