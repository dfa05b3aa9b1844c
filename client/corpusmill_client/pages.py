"""Lists that come in keyset pages.

Knows `data`, `next_cursor`, `limit` and `cursor`. Must not know what is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from corpusmill_client.transport import Transport

PAGE = 1000


def path_of(collection: str, id: str, *rest: str) -> str:
    """The path of one thing; whatever the id holds, it stays one part of the path."""
    return "/" + "/".join([collection, quote(id, safe=""), *rest])


def page(transport: Transport, path: str, params: Mapping[str, Any]) -> tuple[list[Any], str | None]:
    """One page and the cursor of the next, None at the list's end."""
    answer = transport.json("GET", path, params=params, having="data")
    return list(answer["data"]), answer.get("next_cursor")


def each(
    transport: Transport, path: str, params: Mapping[str, Any] | None = None, *, limit: int | None = None
) -> Iterator[Any]:
    """The items of a list, page by page as they are asked for, `limit` at most."""
    left = limit
    cursor: str | None = None
    while left is None or left > 0:
        size = min(PAGE, left) if left is not None else PAGE
        items, cursor = page(transport, path, {**(params or {}), "limit": size, "cursor": cursor})
        yield from items[:left]
        left = left - len(items) if left is not None else None
        if cursor is None:
            return
