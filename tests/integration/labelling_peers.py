"""Two small HTTP servers that speak what Label Studio and Argilla document of their APIs, as far as a review needs it.

They keep projects and datasets in memory and refuse what the real ones refuse: a wrong key, more than 500 records, unknown
tasks and questions, labels that cannot be chosen. The vendors' own clients are run against them in the slow tier.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

NOW = "2026-01-02T03:04:05.000000Z"
#: Argilla's times are UTC and do not say so.
AT = "2026-01-02T03:04:05"
CONFIG = """
<View>
  <Text name="review" value="$body"/>
  <Choices name="sentiment" toName="review">
    <Choice value="positive"/>
    <Choice value="bad" alias="negative"/>
  </Choices>
</View>
"""


class Refused(Exception):
    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


@dataclass
class Peer:
    """A server on a free port of this machine. `faults` are statuses that it answers with before it does anything."""

    seen: list[tuple[str, str]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                """Quiet."""

            def _serve(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                peer.seen.append((self.command, parts.path))
                query = parse_qs(parts.query)
                try:
                    if peer.faults:
                        raise Refused(peer.faults.pop(0), "not now")
                    status, answer = peer.answer(
                        self.command, parts.path, query, json.loads(body) if body else None, self.headers
                    )
                except Refused as refused:
                    status, answer = refused.status, {"detail": refused.detail}
                raw = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_PATCH = _serve  # noqa: N815 — http.server's names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, headers: Any) -> tuple[int, Any]:
        raise NotImplementedError


@dataclass
class LabelStudioPeer(Peer):
    """Label Studio with one project, number 1. `edition` other than the community's takes tasks in later."""

    config: str = CONFIG
    edition: str = "Community"
    tasks: list[dict[str, Any]] = field(default_factory=list)
    access: str = "access-1"
    _imports: int = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, headers: Any) -> tuple[int, Any]:
        if (method, path) == ("POST", "/api/token/refresh/"):
            if body["refresh"] != "ey.personal.token":
                raise Refused(401, "unknown token")
            return 200, {"access": self.access}
        if headers.get("Authorization") not in {"Token legacy", f"Bearer {self.access}"}:
            raise Refused(401, "Authentication credentials were not provided.")
        routes: dict[tuple[str, str], Callable[[], tuple[int, Any]]] = {
            ("GET", "/api/projects/1/"): lambda: (200, {"id": 1, "title": "reviews", "label_config": self.config}),
            ("POST", "/api/projects/1/import"): lambda: self._import(body, query),
            ("POST", "/api/projects/1/import/predictions"): lambda: self._predictions(body),
            ("GET", "/api/projects/1/imports/1/"): self._import_state,
            ("GET", "/api/tasks/"): lambda: self._list(query),
        }
        if (method, path) not in routes:
            raise Refused(404, "Not found.")
        return routes[method, path]()

    def annotate(self, document: str, *choices: str, at: str = NOW, **more: Any) -> None:
        """Somebody labels the newest task of a document."""
        task = [each for each in self.tasks if each["data"]["corpusmill_document"] == document][-1]
        region = {"from_name": "sentiment", "to_name": "review", "type": "choices", "value": {"choices": list(choices)}}
        annotation = {"id": len(self.tasks) * 100 + len(task["annotations"]), "result": [region], "updated_at": at}
        task["annotations"].append({"was_cancelled": False, **annotation, **more})

    def _import(self, body: Any, query: dict[str, list[str]]) -> tuple[int, Any]:
        ids = []
        for task in body:
            for tag in ElementTree.fromstring(self.config).iter("Text"):
                if tag.get("value", "")[1:] not in task["data"]:
                    raise Refused(400, f"Data key {tag.get('value')} is expected in task data")
            number = len(self.tasks) + 1
            predictions = [self._prediction(each, number) for each in task.get("predictions", [])]
            self.tasks.append({"id": number, "data": task["data"], "annotations": [], "predictions": predictions})
            ids.append(number)
        if self.edition != "Community":
            return 201, {"import": 1}
        made = {"task_count": len(ids), "annotation_count": 0, "prediction_count": len(ids)}
        return 201, made | ({"task_ids": ids} if query.get("return_task_ids") == ["true"] else {})

    def _import_state(self) -> tuple[int, Any]:
        self._imports += 1
        return 200, {"id": 1, "status": "completed" if self._imports > 1 else "in_progress"}

    def _predictions(self, body: Any) -> tuple[int, Any]:
        by_id = {task["id"]: task for task in self.tasks}
        for each in body:
            if each["task"] not in by_id:
                raise Refused(400, f'{each} contains invalid "task" field')
            by_id[each["task"]]["predictions"].append(self._prediction(each, each["task"]))
        return 201, {"created": len(body)}

    def _prediction(self, given: Any, task: int) -> dict[str, Any]:
        choices = {tag.get("alias") or tag.get("value") for tag in ElementTree.fromstring(self.config).iter("Choice")}
        for region in given["result"]:
            if not set(region["value"].get("choices", ())) <= choices:
                raise Refused(400, f"Invalid value: {region['value']}")
        kept = {name: given.get(name) for name in ("result", "score", "model_version")}
        return {"id": task * 1_000 + len(self.tasks), "task": task, **kept}

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        found = self.tasks
        if "query" in query:
            filters = json.loads(query["query"][0])["filters"]
            assert filters["conjunction"] == "or"
            wanted = set()
            for item in filters["items"]:
                assert (item["operator"], item["type"]) == ("equal", "String")
                assert item["filter"] == "filter:tasks:data.corpusmill_key"
                wanted.add(item["value"])
            found = [task for task in found if task["data"].get("corpusmill_key") in wanted]
        if query.get("only_annotated") == ["true"]:
            found = [task for task in found if task["annotations"]]
        page, size = int(query["page"][0]), int(query.get("page_size", ["100"])[0])
        shown = found[(page - 1) * size : page * size]
        return 200, {"tasks": shown, "total": len(found), "total_annotations": 0, "total_predictions": 0}


@dataclass
class ArgillaPeer(Peer):
    """Argilla with a dataset `reviews` in the workspace `team`, and one of the same name in another."""

    labels: tuple[str, ...] = ("positive", "negative")
    records: list[dict[str, Any]] = field(default_factory=list)
    dataset: str = field(default_factory=lambda: str(uuid.uuid4()))
    other: str = field(default_factory=lambda: str(uuid.uuid4()))
    question: str = field(default_factory=lambda: str(uuid.uuid4()))
    metadata: tuple[str, ...] = ("corpusmill_why",)
    kind: str = "label_selection"

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, headers: Any) -> tuple[int, Any]:
        if headers.get("X-Argilla-Api-Key") != "key":
            raise Refused(401, {"code": "argilla.api.errors::UnauthorizedError"})
        base = f"/api/v1/datasets/{self.dataset}"
        spaces = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in ("team", "elsewhere")}
        routes: dict[tuple[str, str], Callable[[], tuple[int, Any]]] = {
            ("GET", "/api/v1/me/workspaces"): lambda: self._items(
                [{"id": id_, "name": name, "inserted_at": AT, "updated_at": AT} for name, id_ in spaces.items()]
            ),
            ("GET", "/api/v1/me"): lambda: (200, {
                "id": str(uuid.uuid4()), "username": "us", "first_name": "us", "role": "owner", "api_key": "key",
            }),
            ("GET", "/api/v1/me/datasets"): lambda: self._items([
                self._dataset(self.dataset, spaces["team"]), self._dataset(self.other, spaces["elsewhere"]),
            ]),
            ("GET", base): lambda: (200, self._dataset(self.dataset, spaces["team"])),
            ("GET", f"/api/v1/workspaces/{spaces['team']}"): lambda: (200, {
                "id": spaces["team"], "name": "team", "inserted_at": AT, "updated_at": AT,
            }),
            ("GET", f"{base}/vectors-settings"): lambda: self._items([]),
            ("GET", f"{base}/fields"): lambda: self._items([
                self._field("text", required=True), self._field("second", required=False),
            ]),
            ("GET", f"{base}/questions"): lambda: self._items([self._question()]),
            ("GET", f"/api/v1/me/datasets/{self.dataset}/metadata-properties"): lambda: self._items(
                [
                    {"id": str(uuid.uuid4()), "name": name, "title": name, "settings": {"type": "terms", "values": None},
                     "visible_for_annotators": True}
                    for name in self.metadata
                ]
            ),
            ("PUT", f"{base}/records/bulk"): lambda: self._upsert(body["items"]),
            ("GET", f"{base}/records"): lambda: self._list(query),
        }  # fmt: skip
        if (method, path) not in routes:
            raise Refused(404, {"code": "argilla.api.errors::EntityNotFoundError"})
        return routes[method, path]()

    def respond(self, document: str, value: Any, status: str = "submitted", at: str = AT) -> None:
        """Somebody answers for the newest record of a document."""
        record = [each for each in self.records if each["external_id"].endswith(f"/{document}")][-1]
        values = {"label": {"value": value}}
        response = {"id": str(uuid.uuid4()), "user_id": str(uuid.uuid4()), "updated_at": at}
        record["responses"].append({**response, "status": status, "values": values})

    @staticmethod
    def _items(items: list[Any]) -> tuple[int, Any]:
        return 200, {"items": items}

    @staticmethod
    def _field(name: str, *, required: bool) -> dict[str, Any]:
        settings = {"type": "text", "use_markdown": False}
        return {"id": str(uuid.uuid4()), "name": name, "title": name, "required": required, "settings": settings}

    @staticmethod
    def _dataset(number: str, workspace: str) -> dict[str, Any]:
        return {
            "id": number, "name": "reviews", "status": "ready", "guidelines": None, "allow_extra_metadata": False,
            "distribution": {"strategy": "overlap", "min_submitted": 1}, "workspace_id": workspace, "metadata": None,
            "last_activity_at": AT, "inserted_at": AT,
            "updated_at": AT,
        }  # fmt: skip

    def _question(self) -> dict[str, Any]:
        options = [{"value": label, "text": label, "description": None} for label in self.labels]
        settings = {"type": self.kind, **({"options": options} if self.kind != "text" else {})}
        return {"id": self.question, "name": "label", "title": "label", "description": None, "required": True,
                "settings": settings}  # fmt: skip

    def _upsert(self, items: list[Any]) -> tuple[int, Any]:
        if not 1 <= len(items) <= 500:
            raise Refused(422, "ensure this value has at most 500 items")
        by_id = {record["external_id"]: record for record in self.records}
        updated, answered = [], []
        for item in items:
            if set(item.get("metadata") or {}) - set(self.metadata):
                raise Refused(422, "metadata is not valid")
            for suggestion in item["suggestions"]:
                if suggestion["question_id"] != self.question:
                    raise Refused(422, "question does not exist")
                values = suggestion["value"] if isinstance(suggestion["value"], list) else [suggestion["value"]]
                if self.kind != "text" and not set(values) <= set(self.labels):
                    raise Refused(422, f"{values} is not a valid label")
            record = by_id.get(item["external_id"])
            if record is None:
                record = {"id": str(uuid.uuid4()), "external_id": item["external_id"], "fields": item["fields"],
                          "responses": [], "inserted_at": AT}  # fmt: skip
                self.records.append(record)
                by_id[item["external_id"]] = record
            else:
                updated.append(record["id"])
            # as the real one: fields of a record that is there stay, suggestions and metadata are the new ones
            record["metadata"], record["suggestions"] = item["metadata"], item["suggestions"]
            answered.append(record)
        return 200, {"items": answered, "updated_item_ids": updated}

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        assert set(query["include"]) <= {"responses", "suggestions"}
        offset, limit = int(query["offset"][0]), int(query["limit"][0])
        found = self.records
        if "response_status" in query:
            wanted = set(query["response_status"])
            found = [each for each in found if wanted & {response["status"] for response in each["responses"]}]
        return 200, {"items": found[offset : offset + limit], "total": len(found)}
