"""Argilla as the place where people look: records with suggestions in, responses out.

Knows its HTTP API (version 2, `/api/v1`) and the form of its records. Must not know which documents are chosen.

A record's `external_id` is a key of document and text, a slash and the document's id: an upsert by it makes one record of
each document however often it is sent, and puts the newest model's suggestion in the place of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import structlog

from corpusmill.errors import PlaceFault
from corpusmill.places import ArgillaPlace
from corpusmill.schedules import ArgillaTarget
from pipeline.review import Answer, Chosen, Pushed
from pipeline.review.naming import key_of, model_version, revision_of
from pipeline.review.wire import Wire

log = structlog.get_logger(__name__)

#: Records of one request: the server refuses more.
MOST_RECORDS = 500
_PAGE = 500
_LABELS = {"label_selection": False, "multi_label_selection": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a record of the dataset is made with: the fields of the text and of a second one, the question that takes the
    label (`options` empty: a text that people write), and which metadata it knows."""

    field: str
    pair_field: str | None
    question: str
    question_id: str
    options: frozenset[str]
    several: bool
    metadata: frozenset[str] = frozenset()


class Argilla:
    """A dataset of one Argilla, opened for one run."""

    def __init__(self, place: ArgillaPlace, target: ArgillaTarget) -> None:
        self._place = place
        self._target = target

    def push(self, chosen: Iterable[Chosen]) -> Iterator[Pushed]:
        remaining = iter(chosen)
        batch = list(islice(remaining, MOST_RECORDS))
        if not batch:
            return
        with self._wire() as wire:
            dataset = self._dataset(wire)
            form = self._form(wire, dataset)
            while batch:
                records = [record_of(each, form) for each in batch]
                answer = wire.json("PUT", f"/api/v1/datasets/{dataset}/records/bulk", json={"items": records})
                ids = {item.get("external_id"): str(item["id"]) for item in answer["items"]}
                for each, record in zip(batch, records, strict=True):
                    yield Pushed(
                        document_id=each.row.document_id, model_revision=each.row.model_revision, why=each.why,
                        remote_id=ids.get(record["external_id"]),
                    )  # fmt: skip
                batch = list(islice(remaining, MOST_RECORDS))

    def pull(self) -> Iterator[Answer]:
        """The newest submitted response of each record; drafts and discarded ones say nothing."""
        with self._wire() as wire:
            dataset = self._dataset(wire)
            form = self._form(wire, dataset)
            others = 0
            for record in self._records(wire, dataset):
                answer = answer_of(record, form)
                if answer is not None:
                    yield answer
                others += answer is None and _said(record, form) is not None
            if others:
                log.info("answers left out", tool="Argilla", why="no suggestion of ours", documents=others)

    def _records(self, wire: Wire, dataset: str) -> Iterator[Any]:
        offset = 0
        while True:
            params = {
                "include": ["responses", "suggestions"], "response_status": "submitted", "offset": offset, "limit": _PAGE
            }  # fmt: skip
            items = wire.json("GET", f"/api/v1/datasets/{dataset}/records", params=params)["items"]
            yield from items
            offset += len(items)
            if len(items) < _PAGE:
                return

    def _dataset(self, wire: Wire) -> str:
        found = [
            each for each in wire.json("GET", "/api/v1/me/datasets")["items"] if each["name"] == self._target.dataset
        ]
        if self._target.workspace is not None:
            spaces = wire.json("GET", "/api/v1/me/workspaces")["items"]
            ids = {each["id"] for each in spaces if each["name"] == self._target.workspace}
            found = [each for each in found if each["workspace_id"] in ids]
        if not found:
            raise PlaceFault(f"Argilla has no dataset {self._target.dataset!r} that this key may see.")
        if len(found) > 1:
            raise PlaceFault(f"Argilla has several datasets {self._target.dataset!r}: say in which `workspace`.")
        return str(found[0]["id"])

    def _form(self, wire: Wire, dataset: str) -> Form:
        base = f"/api/v1/datasets/{dataset}"
        fields = wire.json("GET", f"{base}/fields")["items"]
        questions = wire.json("GET", f"{base}/questions")["items"]
        properties = wire.json("GET", f"/api/v1/me/datasets/{dataset}/metadata-properties")["items"]
        return form_of(fields, questions, [each["name"] for each in properties])

    def _wire(self) -> Wire:
        key = self._place.api_key.get_secret_value()
        return Wire("Argilla", self._place.url, lambda _: {"X-Argilla-Api-Key": key})


def form_of(fields: Sequence[Any], questions: Sequence[Any], metadata: Iterable[str]) -> Form:
    """How a dataset's records are made. Raises PlaceFault where it has no text field or no question for a label."""
    texts = [each["name"] for each in fields if each["settings"]["type"] == "text"]
    if not texts:
        raise PlaceFault("The Argilla dataset has no text field.")
    first = "text" if "text" in texts else texts[0]
    others = [name for name in texts if name != first]
    for kind in (*_LABELS, "text"):
        for question in questions:
            if question["settings"]["type"] == kind:
                options = frozenset(str(each["value"]) for each in question["settings"].get("options") or ())
                return Form(
                    field=first, pair_field=others[0] if others else None, question=question["name"],
                    question_id=str(question["id"]), options=options, several=_LABELS.get(kind, False),
                    metadata=frozenset(metadata),
                )  # fmt: skip
    raise PlaceFault("The Argilla dataset has no question for a label: add a LabelQuestion, or a TextQuestion.")


def record_of(chosen: Chosen, form: Form) -> dict[str, Any]:
    """A record with the model's suggestion, as a bulk upsert has it. Raises PlaceFault where the question lacks a label."""
    row = chosen.row
    fields = {form.field: row.text}
    if form.pair_field is not None and row.text_pair is not None:
        fields[form.pair_field] = row.text_pair
    suggestion: dict[str, Any] = {
        "question_id": form.question_id, "value": _value(row.output or {}, form), "type": "model",
        "agent": model_version(row),
    }  # fmt: skip
    if row.score is not None:
        # of several labels each has its own
        score = min(1.0, max(0.0, row.score))
        suggestion["score"] = [score] * len(suggestion["value"]) if form.several else score
    said = {"corpusmill_document": row.document_id, "corpusmill_run": row.run_id, "corpusmill_why": chosen.why}
    return {
        "external_id": f"{key_of(row)}/{row.document_id}", "fields": fields, "suggestions": [suggestion],
        "metadata": {name: value for name, value in said.items() if name in form.metadata},
    }  # fmt: skip


def answer_of(record: Mapping[str, Any], form: Form) -> Answer | None:
    """What people say of a record; None where nobody has, or where it is none of ours."""
    said = _said(record, form)
    revisions = [
        revision_of(str(each.get("agent"))) for each in record.get("suggestions") or ()
        if str(each.get("question_id")) == form.question_id
    ]  # fmt: skip
    if said is None or not revisions or revisions[0] is None:
        return None
    document, value, time_ = said
    remote = {"id": str(record["id"])}
    return Answer(document_id=document, model_revision=revisions[0], label=value, at=_seconds(time_), remote=remote)


def _said(record: Mapping[str, Any], form: Form) -> tuple[str, Any, Any] | None:
    """A document of ours, the newest response to it and its time, whoever has suggested something; None without one."""
    _, slash, document = str(record.get("external_id") or "").partition("/")
    given = [each for each in record.get("responses") or () if each.get("status") == "submitted"]
    if not slash or not given:
        return None
    newest = max(given, key=lambda each: str(each.get("updated_at") or ""))
    value = ((newest.get("values") or {}).get(form.question) or {}).get("value")
    return None if value is None else (document, value, newest.get("updated_at"))


def _value(output: Mapping[str, Any], form: Form) -> Any:
    if not form.options:
        return str(output.get("summary") or output.get("translation") or output.get("label"))
    labels = list(output["labels"]) if "labels" in output else [output["label"]]
    missing = [label for label in labels if label not in form.options]
    if missing:
        raise PlaceFault(f"The question {form.question!r} of the Argilla dataset has no label {missing[0]!r}: add it.")
    if form.several:
        return labels
    if len(labels) != 1:
        raise PlaceFault(f"The model gives several labels, and the question {form.question!r} takes one.")
    return labels[0]


def _seconds(time_: Any) -> float:
    """Argilla's times are UTC, and do not say so."""
    if not time_:
        return 0.0
    found = datetime.fromisoformat(str(time_).replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
