"""Lists over HTTP come in pages, on both databases: the last one has no cursor, though it be full."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

ROWS = 4


def sent(http: FlaskClient, method: str, path: str, **body: Any) -> dict[str, Any]:
    answer = http.open(f"/api/v1{path}", method=method, **body)
    assert answer.status_code < 300, answer.get_json()
    found: dict[str, Any] = answer.get_json()
    return found


def filled(http: FlaskClient, kind: str) -> str:
    """Makes four rows of a kind, and says where they are listed."""
    lines = "".join(f'{{"text": "{n}"}}\n{{broken\n' for n in range(ROWS)).encode()
    if kind == "corpora":
        for _ in range(ROWS):
            sent(http, "POST", "/corpora", data=lines, content_type="application/x-ndjson")
        return "/corpora"
    if kind == "jobs":
        for n in range(ROWS):
            asked = {"task": "classification", "model": "echo", "documents": [{"text": str(n)}]}
            sent(http, "POST", "/jobs", json=asked)
        return "/jobs"
    if kind in {"schedules", "runs"}:
        for n in range(ROWS):
            made = sent(
                http, "POST", "/schedules",
                json={"name": str(n), "cron": "0 2 * * *", "overlap": "queue",
                      "job": {"task": "classification", "model": "echo"},
                      "source": {"type": "sql", "place": "shop", "table": "reviews", "key": "id"},
                      "sinks": [{"type": "table", "place": "shop", "table": "labels"}]},
            )  # fmt: skip
        if kind == "schedules":
            return "/schedules"
        for _ in range(ROWS):
            sent(http, "POST", f"/schedules/{made['id']}/run")
        return f"/schedules/{made['id']}/runs"
    corpus = sent(http, "POST", "/corpora", data=lines, content_type="application/x-ndjson")
    for n in range(ROWS if kind == "references" else 0):
        line = f'{{"position": 0, "reference": "{n}"}}\n'.encode()
        sent(http, "PUT", f"/corpora/{corpus['id']}/references", data=line, content_type="application/x-ndjson")
    return f"/corpora/{corpus['id']}/{kind}"


@pytest.mark.parametrize("kind", ["corpora", "jobs", "schedules", "runs", "documents", "errors", "references"])
def test_the_last_page_of_a_list_has_no_cursor_though_it_be_full(http: FlaskClient, kind: str) -> None:
    path = filled(http, kind)
    whole = sent(http, "GET", path, query_string={"limit": ROWS})
    assert (len(whole["data"]), whole["next_cursor"]) == (ROWS, None)
    first = sent(http, "GET", path, query_string={"limit": ROWS // 2})
    last = sent(http, "GET", path, query_string={"limit": ROWS // 2, "cursor": first["next_cursor"]})
    assert first["data"] + last["data"] == whole["data"]
    assert last["next_cursor"] is None
