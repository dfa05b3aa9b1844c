"""The OpenAPI document, put right where its generator says what is not so.

Knows the generator's habits. Must not know any route.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from flask_openapi.openapi import OpenAPI

_PROBLEM = {
    "description": "Problem details (RFC 9457): what is wrong, where, and how to mend it",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document(app: OpenAPI, *, keyed: bool) -> dict[str, Any]:
    """The OpenAPI document of the application's routes; `keyed` says that they ask for the key.

    The generator gives every operation a 422 of another shape and no other refusal, and writes line ends as HTML.
    """
    made: dict[str, Any] = deepcopy(app.api_doc)
    if not keyed:
        made["components"].pop("securitySchemes")
    for item in made["paths"].values():
        for operation in item.values():
            operation["responses"] = {
                **{status: answer for status, answer in operation["responses"].items() if status != "422"},
                "default": _PROBLEM,
            }
            if not keyed:
                operation.pop("security")
            if "description" in operation:
                operation["description"] = operation["description"].replace("<br/>", "\n").strip()
    return made
