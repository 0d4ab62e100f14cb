"""Whatever goes wrong, in the shape that clients of OpenAI read."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

TYPES = {401: "authentication_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}
PLACES = ("body", "path", "query")
CURES = {
    404: "There is no such path here; the paths are listed at /openapi.json.",
    405: "This path takes another method; the header Allow names it.",
}


class Refusal(Exception):
    """An answer that is an error: its status, what to say, and which parameter is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def not_found(what: str, name: str) -> Refusal:
    """A 404 for a thing with an id."""
    return Refusal(404, f"There is no {what} {name!r}.", code="_".join([what.lower(), "not_found"]))


def too_large(most: int) -> Refusal:
    return Refusal(413, f"The request is larger than the {most} bytes that are taken here.", code="request_too_large")


def wrong_fields(error: ValidationError | RequestValidationError) -> Refusal:
    """The first field that is wrong; of one that may be several things, by that which it comes closest to."""
    errors = [(tuple(part for part in one["loc"] if part not in PLACES), str(one["msg"])) for one in error.errors()]
    field = errors[0][0][:1]
    _, why = max((one for one in errors if one[0][:1] == field), key=lambda one: len(one[0]))
    param, why = str(field[0]) if field else None, why.removeprefix("Value error, ")
    return Refusal(400, f"{param}: {why}" if param else why, param, "invalid_value")


def answer_errors(app: FastAPI) -> None:
    """Let every error of the application leave in that shape."""

    async def refusal(request: Request, error: Any) -> JSONResponse:
        return error.response

    async def http(request: Request, error: Any) -> JSONResponse:
        message = CURES.get(error.status_code, str(error.detail))
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return Refusal(error.status_code, message, code=code, headers=error.headers).response

    async def fields(request: Request, error: Any) -> JSONResponse:
        return wrong_fields(error).response

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return Refusal(500, "The server failed at this request; its log says why.", code="internal_error").response

    app.add_exception_handler(Refusal, refusal)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, fields)
    app.add_exception_handler(Exception, unexpected)
