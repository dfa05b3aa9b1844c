"""Errors as RFC 9457 problem+json: one table from error to status, one shape for all.

Knows statuses and the shape. Must not let out a traceback, SQL or a path of the server: what nobody foresaw is logged under
the request's id and answered with that id alone.
"""

from __future__ import annotations

import errno
import json
import secrets

import structlog
from flask import Flask, Response, g, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from corpora.disk import FULL
from corpora.values import kind_of
from corpusmill import errors
from corpusmill.validation import faults_of

log = structlog.get_logger(__name__)

STATUSES: dict[type[errors.CorpusmillError], int] = {
    errors.InvalidRequest: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.CorpusDamaged: 409,
    errors.Gone: 410,
    errors.TooLarge: 413,
    errors.UnsupportedFormat: 415,
    errors.StorageFull: 507,
    errors.DatabaseUnavailable: 503,
    errors.ResourcesUnavailable: 503,
    errors.NewerVersion: 503,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
}
RETRY_AFTER_SECONDS = 5
#: No file descriptor, of the process or of the machine, no further process, no memory.
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})


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
        return _no_object()
    faults = tuple(faults_of(error, _MODELS.get(error.title, BaseModel)))
    detail = "The request is not valid: " + "; ".join(f"{fault.pointer}: {fault.message}" for fault in faults[:5])
    return problem(422, "Unprocessable Content", detail, "invalid_request", faults)


def _no_object() -> Response:
    """A body that is no JSON object, with what it is instead."""
    if not request.is_json:
        given = f"not as {request.mimetype}" if request.mimetype else "and say so"
        detail = f"Send the body as `Content-Type: application/json`, {given}."
        return problem(415, _TITLES[415], detail, errors.UnsupportedFormat.code)
    body = request.get_data()
    try:
        value = json.loads(body)
        detail = f"The body must be a JSON object, not {kind_of(value)}."
        if isinstance(value, dict):
            detail = "The body is not JSON that can be read: values are nested too deeply."
    except UnicodeDecodeError as error:
        detail = f"The body is not UTF-8 at byte {error.start + 1}."
    except json.JSONDecodeError as error:
        detail = f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
    except (ValueError, RecursionError):
        detail = "The body is not JSON that can be read: a number is too long, or values are nested too deeply."
    return problem(
        400, "Bad Request", detail if body else "The body is empty; it must be a JSON object.", "invalid_json"
    )


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
        detail = str(error)
        if isinstance(error, errors.InvalidSettings):  # it names files of the server
            detail = f"A setting of this server is wrong; its log has which one under {g.get('request_id', '')}."
        return problem(status, _TITLES.get(status, "Error"), detail, error.code, faults)

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response:
        status = error.code or 500
        code = "not_found" if status == 404 else error.name.lower().replace(" ", "_")
        if status == 400 and isinstance(error.__cause__ or error.__context__, json.JSONDecodeError):
            code = "invalid_json"
        response = problem(status, error.name, _said(error), code)
        for name, value in error.get_headers():
            if name in {"Allow", "Retry-After"}:
                response.headers[name] = value
        return response

    @app.errorhandler(OSError)
    def _machine(error: OSError) -> Response:
        if error.errno in FULL:
            return _ours(
                errors.StorageFull("The disk of the data directory takes nothing more: nothing of this was kept.")
            )
        if error.errno in _SHORT:
            said = "The server has no file descriptor, process or memory left for this now: send it again in a moment."
            return _ours(errors.ResourcesUnavailable(said))
        return _unforeseen(error)

    @app.errorhandler(RecursionError)
    def _nested(error: RecursionError) -> Response:
        return _no_object() if request.is_json else _unforeseen(error)

    @app.errorhandler(Exception)
    def _unforeseen(error: Exception) -> Response:
        log.error("request failed", path=request.path, exc_info=error)
        detail = f"Something went wrong here; the server's log has it under {g.get('request_id', '')}."
        return problem(500, "Internal Server Error", detail, "internal")


def _said(error: HTTPException) -> str:
    """What is said of an error that the framework found."""
    if isinstance(error, NotFound):
        return f"There is nothing at {request.path}; /docs lists what there is."
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        *others, last = sorted(error.valid_methods)
        known = f"{', '.join(others)} and {last}" if others else last
        return f"{request.path} answers to {known}, not to {request.method}."
    return error.description or error.name


_TITLES = {
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 410: "Gone", 413: "Content Too Large",
    415: "Unsupported Media Type", 422: "Unprocessable Content", 503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip
