"""A small HTTP server that speaks the contract, for the tests of the client and the command line.

It keeps corpora and jobs in memory and runs the `echo` model: a job gets one step further with each question about it,
so no test depends on the clock. `misbehave` scripts what a network or a server does wrong.
"""

from __future__ import annotations

import csv
import io
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NOW = "2026-01-02T03:04:05.000Z"
KNOWN_JOB_FIELDS = {
    "task",
    "model",
    "revision",
    "corpus",
    "documents",
    "name",
    "params",
    "priority",
    "metadata",
    "reuse",
}


@dataclass
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Once:
    """What came with an Idempotency-Key, and the first answer to it."""

    request: tuple[str, dict[str, str], bytes]
    status: int
    data: Any
    headers: dict[str, str]


@dataclass
class Peer:
    """The server; `url` is its address and `seen` what it was asked."""

    port: int = 0
    key: str = ""
    steps: int = 3
    host: str = "127.0.0.1"
    seen: list[Seen] = field(default_factory=list)
    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=lambda: {"metrics": [], "confusion_matrix": None})
    references: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    nights: list[dict[str, Any]] = field(default_factory=list)
    once: dict[str, Once] = field(default_factory=dict)

    def start(self) -> Peer:
        self._server = _Server((self.host, self.port), _Handler)
        self._server.peer = self
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.002,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def misbehave(self, method: str, path: str, how: str, times: int = 1) -> None:
        """The next `times` requests whose path ends in `path` are answered by the fault `how`: see `_fault`."""
        self.faults += [(method, path, how)] * times

    def asked(self, method: str, path: str) -> list[Seen]:
        return [each for each in self.seen if each.method == method and each.path.endswith(path)]

    def add_corpus(self, lines: Iterator[Any] | list[Any], **extra: Any) -> dict[str, Any]:
        documents: list[dict[str, Any]] = []
        invalid = 0
        text_field = extra.pop("text_field", "text")
        for line in lines:
            if isinstance(line, dict) and isinstance(line.get(text_field), str):
                documents.append({"id": str(line.get("id", len(documents))), **line, "text": line[text_field]})
            else:
                invalid += 1
        id = f"corpus_{len(self.corpora)}"
        self.documents[id] = documents
        self.corpora[id] = {
            "id": id, "name": None, "status": "ready" if documents else "rejected", "format": "jsonl", "bytes": 1,
            "sha256": "0" * 64, "documents": len(documents), "invalid": invalid, "fields": ["text"], "created_at": NOW,
        } | extra  # fmt: skip
        return self.corpora[id]

    def add_job(self, corpus: str, task: str = "classification", **extra: Any) -> dict[str, Any]:
        id = f"job_{len(self.jobs)}"
        self.at[id] = 0
        self.jobs[id] = {
            "id": id, "name": None, "task": task, "model": {"id": "echo", "revision": "1"}, "corpus": corpus,
            "corpus_invalid": self.corpora[corpus]["invalid"], "params": {}, "error": None, "metadata": {},
            "queue_position": None, "created_at": NOW, "started_at": None, "finished_at": None, "expires_at": None,
        } | extra  # fmt: skip
        return self.jobs[id]

    def move(self, id: str, move: str) -> None:
        """Pauses, resumes, cancels or runs again, whatever the job's state; a retried job finds texts where none were."""
        if move == "retry":
            self.at[id] = 0
            for document in self.documents[self.jobs[id]["corpus"]]:
                document["text"] = document["text"].strip() or "now there is one"
        else:
            self.jobs[id]["paused"] = move == "pause"
            self.jobs[id]["cancelled"] = move == "cancel"

    def job(self, id: str) -> dict[str, Any]:
        """The job as it stands: after `steps` questions every document has its result; empty texts fail."""
        data, documents = self.jobs[id], self.documents[self.jobs[id]["corpus"]]
        total = len(documents)
        done = total if self.at[id] >= self.steps else total * self.at[id] // self.steps
        failed = sum(not document["text"].strip() for document in documents[:done])
        cancelled = total - done if data.get("cancelled") else 0
        status = "running" if self.at[id] else "queued"
        if data["error"]:
            status = "failed"
        elif cancelled:
            status = "cancelled"
        elif data.get("paused"):
            status = "paused"
        elif done == total:
            status = "completed" if not failed else "completed_with_errors" if failed < total else "failed"
        counts = {"total": total, "succeeded": done - failed, "failed": failed, "cancelled": cancelled}
        pending = total - done - cancelled
        return {key: value for key, value in data.items() if key not in {"cancelled", "paused"}} | {
            "status": status, "counts": counts | {"pending": pending}, "progress": (total - pending) / (total or 1),
            "documents_per_second": 10.0, "eta_seconds": pending / 10,
        }  # fmt: skip

    def results(self, id: str) -> list[dict[str, Any]]:
        job = self.job(id)
        done = job["counts"]["total"] - job["counts"]["pending"]
        return [
            result_of(position, document, job["task"])
            for position, document in enumerate(self.documents[job["corpus"]][:done])
        ]


def result_of(position: int, document: dict[str, Any], task: str) -> dict[str, Any]:
    """What the echo model says of a document."""
    text, id = document["text"], document["id"]
    shape = {"id": id, "position": position, "n_tokens": len(text.split()), "n_segments": 1, "truncated": False}
    if not text.strip():
        error = {"code": "empty_text", "message": "The text is empty.", "retryable": False}
        return shape | {"status": "failed", "output": None, "error": error}
    label = str(zlib.crc32(text.encode()) % 4)
    output = {
        "classification": {"label": label, "score": 1.0, "scores": {label: 1.0}},
        "summarization": {"summary": text.split(".")[0]},
        "translation": {"translation": text[::-1]},
    }[task]
    return shape | {"status": "succeeded", "output": output, "error": None}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    peer: Peer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        """Ends the connections that are open, as the end of a process would."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_PUT = do_PATCH = do_GET  # noqa: N815 — http.server's names

    def _serve(self) -> None:
        peer, parts = self.server.peer, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        seen = Seen(self.command, parts.path, query, {name.lower(): value for name, value in self.headers.items()})
        peer.seen.append(seen)
        for fault in peer.faults:
            if fault[0] == self.command and parts.path.endswith(fault[1]):
                peer.faults.remove(fault)
                if self._fault(fault[2], seen):
                    return
                break
        self._carry_out(seen)

    def _carry_out(self, seen: Seen) -> None:
        peer = self.server.peer
        seen.body = b"".join(self._body())
        if peer.key and seen.headers.get("authorization") != f"Bearer {peer.key}":
            self._problem(401, "unauthorized", "This server needs a key.")
            return
        getattr(self, f"_{self.command.lower()}")(seen.path.removeprefix("/api/v1/").split("/"), seen)

    def _fault(self, how: str, seen: Seen) -> bool:
        """Whether the fault is all the answer there is."""
        if how == "hang up":  # before anything is read
            self.close_connection = True
        elif how == "hang up half way":
            self.rfile.read(100_000)
            self.close_connection = True
        elif how == "lose the answer":  # the request is carried out, its answer is lost
            real, self.wfile = self.wfile, io.BytesIO()
            self._carry_out(seen)
            self.wfile = real
            self.close_connection = True
        elif how == "refuse early":
            self._problem(413, "too_large", "The upload is larger than this server takes (1 KiB).")
            self.close_connection = True
        elif how == "cut short":  # promises more than it sends
            seen.body = b"".join(self._body())
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"id": "0", "te')
            self.close_connection = True
        elif how == "html":
            seen.body = b"".join(self._body())
            self._answer(502, b"<html>Bad Gateway</html>", "text/html")
        elif how == "no json":
            self._answer(200, b"hello", "text/plain")
        elif how == "redirect":
            self._answer(308, b"", "text/plain", Location="https://elsewhere.example/")
        else:
            seen.body = b"".join(self._body())
            status = int(how)
            self._problem(
                status, {429: "too_many_requests", 503: "database_unavailable"}.get(status, "internal"), "Oh."
            )
        return True

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            promised = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(promised)
            if len(body) < promised:
                raise ConnectionAbortedError("the body broke off")
            yield body

    def _answer(self, status: int, body: bytes, media: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": media, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _json(self, status: int, data: Any, **headers: str) -> None:
        self._answer(status, json.dumps(data).encode(), **headers)

    def _problem(self, status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        problem = {
            "type": "about:blank", "title": code, "status": status, "detail": detail, "code": code,
            "errors": errors or [], "request_id": "req_7",
        }  # fmt: skip
        self._answer(status, json.dumps(problem).encode(), "application/problem+json")

    def _page(self, items: list[Any], seen: Seen, *, open: bool = False) -> None:
        start, limit = int(seen.query.get("cursor", 0)), int(seen.query.get("limit", 100))
        end = min(start + limit, len(items))
        self._json(200, {"data": items[start:end], "next_cursor": str(end) if open or end < len(items) else None})

    def _post(self, parts: list[str], seen: Seen) -> None:
        peer = self.server.peer
        first = peer.once.get(seen.headers.get("idempotency-key", ""))
        if first is not None and first.request != (seen.path, seen.query, seen.body):
            self._problem(422, "idempotency_key_reused", "This Idempotency-Key came with another request before.")
        elif first is not None:
            self._json(first.status, first.data, **first.headers)
        elif parts == ["corpora"]:
            lines = list(_lines(seen)) if "content-encoding" not in seen.headers else [{"text": "packed"}]
            fields = {name: seen.query[name] for name in ("name", "text_field") if name in seen.query}
            self._made(seen, 201, peer.add_corpus(lines, bytes=len(seen.body), **fields))
        elif parts == ["jobs"]:
            self._create(seen)
        elif parts == ["schedules"]:
            id = f"sched_{len(peer.schedules)}"
            peer.schedules[id] = {"id": id, **json.loads(seen.body)}
            self._made(seen, 201, peer.schedules[id])
        elif parts[0] == "schedules":
            peer.nights.append({"id": f"run_{len(peer.nights)}", "schedule": parts[1], "status": "waiting"})
            self._made(seen, 202, peer.nights[-1])
        else:
            peer.move(parts[1], parts[2])
            self._json(202, peer.job(parts[1]))

    def _made(self, seen: Seen, status: int, data: Any, **headers: str) -> None:
        if key := seen.headers.get("idempotency-key"):
            self.server.peer.once[key] = Once((seen.path, seen.query, seen.body), status, data, headers)
        self._json(status, data, **headers)

    def _create(self, seen: Seen) -> None:
        peer, body = self.server.peer, json.loads(seen.body)
        if unknown := body.keys() - KNOWN_JOB_FIELDS:
            faults = [{"pointer": f"/{name}", "message": "Unknown field."} for name in unknown]
            self._problem(422, "invalid_request", "The request is not valid.", faults)
        elif "top_q" in body.get("params", {}):
            fault = {"pointer": "/params/top_q", "message": "Unknown field. Did you mean top_k?"}
            self._problem(422, "invalid_request", "The parameters do not fit the task classification.", [fault])
        elif not body["model"].startswith(("echo", "demo/")):
            self._problem(422, "unknown_model", f"There is no model {body['model']} here.")
        else:
            corpus = body.pop("corpus", None) or peer.add_corpus(body.pop("documents"))["id"]
            body["model"] = {"id": body["model"], "revision": body.pop("revision", "1")}
            job = peer.add_job(corpus, **body)
            self._made(seen, 202, peer.job(job["id"]), Location=f"/api/v1/jobs/{job['id']}")

    def _put(self, parts: list[str], seen: Seen) -> None:
        """References of a corpus: whatever ids they name."""
        versions = self.server.peer.references.setdefault(parts[1], [])
        lines = list(_lines(seen))
        if None in lines:
            fault = {"pointer": f"/{lines.index(None) + 1}", "message": f"Line {lines.index(None) + 1}: no JSON."}
            self._problem(422, "invalid_references", "The references cannot be used.", [fault])
            return
        made = {"corpus": parts[1], "version": len(versions) + 1, "documents": len(lines), "sha256": "0" * 64}
        versions.insert(0, made | {"created_at": NOW})
        self._json(200, versions[0])

    _patch = _put

    def _delete(self, parts: list[str], seen: Seen) -> None:
        kept = self.server.peer.jobs if parts[0] == "jobs" else self.server.peer.corpora
        if parts[1] not in kept:
            self._problem(404, "not_found", f"There is no {parts[1]}.")
        else:
            del kept[parts[1]]
            self._answer(204, b"")

    def _get(self, parts: list[str], seen: Seen) -> None:
        peer = self.server.peer
        if parts == ["models"]:
            model = {"id": "echo", "revision": "1", "tasks": ["classification"], "labels": ["0", "1"]}
            empty: dict[str, Any] = {"source_langs": [], "target_langs": [], "loaded_on": []}
            self._page([model | empty], seen)
        elif parts == ["corpora"]:
            self._page(list(peer.corpora.values()), seen)
        elif parts == ["jobs"]:
            jobs = [peer.job(id) for id in reversed(peer.jobs)]
            self._page([job for job in jobs if job["status"] == seen.query.get("status", job["status"])], seen)
        elif parts[0] == "corpora" and parts[1] in peer.corpora:
            self._get_corpus(parts, seen)
        elif parts[0] == "jobs" and parts[1] in peer.jobs:
            self._get_job(parts, seen)
        else:
            self._problem(404, "not_found", f"There is no {'/'.join(parts[1:])}.")

    def _get_corpus(self, parts: list[str], seen: Seen) -> None:
        peer, corpus = self.server.peer, self.server.peer.corpora[parts[1]]
        if len(parts) == 2:
            self._json(200, corpus)
        elif parts[2] == "references":
            self._page(peer.references.get(parts[1], []), seen)
        elif parts[2] == "errors":
            fault = {"column": "9", "code": "invalid_json", "message": "Expecting value."}
            self._page([fault | {"line": line + 1} for line in range(corpus["invalid"])], seen)
        else:
            self._page(peer.documents[parts[1]], seen)

    def _get_job(self, parts: list[str], seen: Seen) -> None:
        peer, id = self.server.peer, parts[1]
        if len(parts) == 2:
            peer.at[id] += 1
            job = peer.job(id)
            tag = f'"{zlib.crc32(json.dumps(job).encode())}"'
            if seen.headers.get("if-none-match") == tag:
                self._answer(304, b"", ETag=tag)
            else:
                self._json(200, job, ETag=tag)
        elif parts[2] == "results":
            kept = [
                result
                for result in peer.results(id)
                if result["status"] == seen.query.get("status", result["status"])
                and ("label" not in seen.query or (result["output"] or {}).get("label") == seen.query["label"])
            ]
            self._page(kept, seen, open=peer.job(id)["counts"]["pending"] > 0)
        elif parts[2] == "metrics":
            self._json(200, peer.metrics)
        elif peer.job(id)["counts"]["pending"] and seen.query.get("partial") != "true":
            self._problem(409, "conflict", f"{id} has not ended; partial=true exports what is there.")
        else:
            self._export(id, seen.query["format"])

    def _export(self, id: str, format: str) -> None:
        peer = self.server.peer
        documents = peer.documents[peer.jobs[id]["corpus"]]
        rows = [document | result for document, result in zip(documents, peer.results(id), strict=False)]
        if format == "csv":
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(["id", "text", "label"])
            writer.writerows([row["id"], row["text"], (row["output"] or {}).get("label")] for row in rows)
            self._answer(200, text.getvalue().encode(), "text/csv")
        else:
            body = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self._answer(200, body if format == "jsonl" else b"PAR1" + body, "application/octet-stream")


def _lines(seen: Seen) -> Iterator[Any]:
    text = seen.body.decode()
    if seen.headers["content-type"] == "text/csv":
        yield from csv.DictReader(io.StringIO(text))
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            yield None
