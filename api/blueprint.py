"""What the blueprints of the native API have in common.

Knows the prefix and the shape of errors in the OpenAPI document. Must not know any route.
"""

from __future__ import annotations

import inspect
from typing import Any

from flask import Flask, make_response, request
from flask.wrappers import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from corpusmill.errors import FieldFault, InvalidRequest

PREFIX = "/api/v1"


def blueprint(name: str, description: str) -> APIBlueprint:
    """A blueprint below `/api/v1`, named in the OpenAPI document."""
    return APIBlueprint(
        name,
        name,
        url_prefix=PREFIX,
        abp_tags=[Tag(name=name, description=description)],
        abp_security=[{"key": []}],
    )


def refuse_ignored_queries(app: Flask) -> None:
    """Answer a request that is to change something with a 422 where its address has a query and the route reads none: who
    asks for `?dry_run=true` must not get the real thing."""

    @app.before_request
    def _check() -> None:
        if request.method in {"GET", "HEAD", "OPTIONS"} or request.endpoint is None:
            return
        reads = inspect.signature(app.view_functions[request.endpoint]).parameters
        if request.args and "query" not in reads:
            faults = tuple(
                FieldFault(f"/{name}", "Unknown query parameter: this request has none.") for name in request.args
            )
            raise InvalidRequest(
                "The address holds what this request does not read: " + ", ".join(request.args), *faults
            )


def answer(body: dict[str, Any], status: int = 200, **headers: str) -> Response:
    """A JSON answer with headers, whose names are written with `_` for `-`."""
    response = make_response(body, status)
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def cursor_key(cursor: str | None) -> int | None:
    """The row key in a cursor. Raises InvalidRequest where it is none of ours."""
    if cursor is None:
        return None
    if not cursor.isdecimal():
        raise InvalidRequest("The cursor is not one that this server gave.")
    return int(cursor)
