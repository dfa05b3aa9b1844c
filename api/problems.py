"""Errors as RFC 9457 problem+json: one table from error to status, one shape for all.

Knows statuses and the shape. Must not let out a traceback, SQL or a path of the server: what nobody foresaw is logged under
the request's id and answered with that id alone.
"""

from __future__ import annotations

import json
import secrets

import structlog
from flask import Flask, Response, g, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException

from corpusmill import errors
from corpusmill.tasks import faults_of

log = structlog.get_logger(__name__)

STATUSES: dict[type[errors.CorpusmillError], int] = {
    errors.InvalidRequest: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.UnsupportedFormat: 415,
    errors.StorageFull: 507,
    errors.DatabaseUnavailable: 503,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
}
RETRY_AFTER_SECONDS = 5


class Fault(BaseModel):
    """One faulty field: a JSON pointer or a query parameter's name, and what is wrong."""

    pointer: str
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457). `code` is stable; `detail` says what, where and how to mend it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[Fault] = []
    request_id: str


def problem(status: int, title: str, detail: str, code: str, faults: tuple[errors.FieldFault, ...] = ()) -> Response:
    """A problem+json response."""
    body = Problem(
        title=title, status=status, detail=detail, code=code, request_id=g.get("request_id", ""),
        errors=[Fault(pointer=fault.pointer, message=fault.message) for fault in faults],
    )  # fmt: skip
    response = Response(body.model_dump_json(), status, mimetype="application/problem+json")
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def on_invalid(error: ValidationError) -> Response:
    """A body or query that pydantic refused."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["loc"] == () and first["type"] in {"model_type", "model_attributes_type"}:
        return problem(400, "Bad Request", "The body must be a JSON object.", "invalid_json")
    faults = tuple(faults_of(error, _MODELS.get(error.title, BaseModel)))
    detail = "The request is not valid: " + "; ".join(f"{fault.pointer}: {fault.message}" for fault in faults[:5])
    return problem(422, "Unprocessable Content", detail, "invalid_request", faults)


_MODELS: dict[str, type[BaseModel]] = {}


def names_fields(model: type[BaseModel]) -> type[BaseModel]:
    """Let an unknown field of this request model be answered with the nearest known one."""
    _MODELS[model.__name__] = model
    return model


def register(app: Flask) -> None:
    """Answer every error of the application as a problem."""

    @app.before_request
    def _identify() -> None:
        g.request_id = "req_" + secrets.token_hex(8)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    @app.after_request
    def _name(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        return response

    @app.errorhandler(errors.CorpusmillError)
    def _ours(error: errors.CorpusmillError) -> Response:
        status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
        if status >= 500:
            log.error("request failed", path=request.path, why=str(error))
        faults = error.faults if isinstance(error, errors.InvalidRequest) else ()
        return problem(status, _TITLES.get(status, "Error"), str(error), error.code, faults)

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response:
        status = error.code or 500
        code = "not_found" if status == 404 else error.name.lower().replace(" ", "_")
        if status == 400 and isinstance(error.__cause__ or error.__context__, json.JSONDecodeError):
            code = "invalid_json"
        response = problem(status, error.name, error.description or error.name, code)
        for name, value in error.get_headers():
            if name in {"Allow", "Retry-After"}:
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def _unforeseen(error: Exception) -> Response:
        log.error("request failed", path=request.path, exc_info=error)
        detail = f"Something went wrong here; the server's log has it under {g.get('request_id', '')}."
        return problem(500, "Internal Server Error", detail, "internal")


_TITLES = {
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 413: "Content Too Large",
    415: "Unsupported Media Type", 422: "Unprocessable Content", 503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip
