"""Label Studio as the place where people look: tasks and predictions in, annotations out.

Knows its HTTP API (https://api.labelstud.io) and the form of its files. Must not know which documents are chosen.

A task holds, beside the text, `corpusmill_key` (of document and text: it is found again by it), `corpusmill_document`,
`corpusmill_run` and `corpusmill_why`. A document that is there already gets no second task; where another model has looked
at it since, that model's prediction goes beside the first.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import islice
from typing import Any

import structlog

from corpusmill.errors import PlaceFault, PlaceUnavailable
from corpusmill.places import LabelStudioPlace
from corpusmill.schedules import LabelStudioTarget
from pipeline.review import Answer, Chosen, Pushed
from pipeline.review.label_config import LabelConfig, parse_config
from pipeline.review.naming import key_of, model_version, revision_of
from pipeline.review.vendor import Validator
from pipeline.review.wire import Wire

log = structlog.get_logger(__name__)

#: Documents of one import; it takes up to 250,000 tasks and 200 MB.
BATCH = 250
#: Keys of one question, which goes in an address.
_LOOKUPS = 20
_PAGE = 100
_IMPORT_SECONDS = 300.0


class LabelStudio:
    """A project of one Label Studio, opened for one run."""

    def __init__(self, place: LabelStudioPlace, target: LabelStudioTarget) -> None:
        self._place = place
        self._project = target.project
        self._access: str | None = None

    def push(self, chosen: Iterable[Chosen]) -> Iterator[Pushed]:
        remaining = iter(chosen)
        batch = list(islice(remaining, BATCH))
        if not batch:
            return
        with ExitStack() as stack:
            wire = stack.enter_context(self._wire())
            pairs = any(each.row.text_pair is not None for each in batch)
            xml, config = self._config(wire, text_pair=pairs)
            validator = self._validator(stack)
            _refuse(validator.configuration(xml) if validator else [], "labelling configuration")
            while batch:
                tasks = [task_of(each, config) for each in batch]
                made = [prediction for task in tasks for prediction in task["predictions"]]
                _refuse(validator.predictions(made) if validator else [], "predictions")
                yield from self._put(wire, batch, tasks)
                batch = list(islice(remaining, BATCH))

    def pull(self) -> Iterator[Answer]:
        """The newest annotation of each task; one that was cancelled, or is a draft, says nothing."""
        with self._wire() as wire:
            _, config = self._config(wire, text_pair=False)
            others = 0
            for task in self._tasks(wire, {"only_annotated": "true"}):
                answers = list(answers_of(task, config))
                others += not answers and answered(task, config)
                yield from answers
            if others:
                log.info("answers left out", tool="Label Studio", why="no prediction of ours", documents=others)

    def _put(self, wire: Wire, batch: Sequence[Chosen], tasks: Sequence[dict[str, Any]]) -> Iterator[Pushed]:
        known = self._known(wire, tasks)
        new = [task for task in tasks if task["data"]["corpusmill_key"] not in known]
        later = [
            {"task": known[task["data"]["corpusmill_key"]]["id"], **prediction}
            for task in tasks if task["data"]["corpusmill_key"] in known
            for prediction in task["predictions"]
            if prediction["model_version"] not in _versions(known[task["data"]["corpusmill_key"]])
        ]  # fmt: skip
        project = f"/api/projects/{self._project}"
        if new:
            answer = wire.json("POST", f"{project}/import", params={"return_task_ids": "true"}, json=new)
            self._await_import(wire, answer)
            known |= self._known(wire, new)
        if later:
            wire.json("POST", f"{project}/import/predictions", json=later)
        for each, task in zip(batch, tasks, strict=True):
            key = task["data"]["corpusmill_key"]
            if key not in known:
                raise PlaceUnavailable(f"Label Studio took a task in and does not list it yet (corpusmill_key {key}).")
            yield Pushed(
                document_id=each.row.document_id, model_revision=each.row.model_revision, why=each.why,
                remote_id=str(known[key]["id"]),
            )  # fmt: skip

    def _await_import(self, wire: Wire, answer: Any) -> None:
        """Other editions than the community's take tasks in later, and say how far they are."""
        number = answer.get("import") if isinstance(answer, Mapping) else None
        until = time.monotonic() + _IMPORT_SECONDS
        while number is not None:
            state = wire.json("GET", f"/api/projects/{self._project}/imports/{number}/")
            if state.get("status") == "completed":
                return
            if state.get("status") == "failed":
                raise PlaceFault(f"Label Studio did not take the tasks in: {state.get('error')}")
            if time.monotonic() > until:
                raise PlaceUnavailable("Label Studio has not taken the tasks in yet.")
            time.sleep(1.0)

    def _known(self, wire: Wire, tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The tasks of the project, by their key, that are of these documents with these texts."""
        keys = [task["data"]["corpusmill_key"] for task in tasks]
        found: dict[str, Any] = {}
        for start in range(0, len(keys), _LOOKUPS):
            wanted = keys[start : start + _LOOKUPS]
            items = [
                {"filter": "filter:tasks:data.corpusmill_key", "operator": "equal", "type": "String", "value": key}
                for key in wanted
            ]
            query = json.dumps({"filters": {"conjunction": "or", "items": items}}, separators=(",", ":"))
            for task in self._tasks(wire, {"query": query}):
                key = task.get("data", {}).get("corpusmill_key")
                if key in wanted:
                    found.setdefault(key, task)
        return found

    def _tasks(self, wire: Wire, params: Mapping[str, str]) -> Iterator[Any]:
        page = seen = 0
        while True:
            page += 1
            asked = {"project": self._project, "fields": "all", "page": page, "page_size": _PAGE, **params}
            answer = wire.json("GET", "/api/tasks/", params=asked)
            tasks = answer["tasks"]
            yield from tasks
            seen += len(tasks)
            if len(tasks) < _PAGE or seen >= answer.get("total", seen + 1):
                return

    def _config(self, wire: Wire, *, text_pair: bool) -> tuple[str, LabelConfig]:
        xml = str(wire.json("GET", f"/api/projects/{self._project}/")["label_config"])
        return xml, parse_config(xml, text_pair=text_pair)

    def _validator(self, stack: ExitStack) -> Validator | None:
        """The vendor's validator, where the operator has given an interpreter that has it, or this one does."""
        python = self._place.sdk_python
        if python is None and importlib.util.find_spec("label_studio_sdk") is None:
            return None
        return stack.enter_context(Validator(str(python or sys.executable)))

    def _wire(self) -> Wire:
        return Wire("Label Studio", self._place.url, self._headers)

    def _headers(self, renewed: bool) -> Mapping[str, str]:
        """A legacy token is sent as it is; a personal access token (a JWT) buys an access token of a few minutes."""
        token = self._place.token.get_secret_value()
        if token.count(".") != 2:
            return {"Authorization": f"Token {token}"}
        if self._access is None or renewed:
            with Wire("Label Studio", self._place.url) as wire:
                self._access = str(wire.json("POST", "/api/token/refresh/", json={"refresh": token})["access"])
        return {"Authorization": f"Bearer {self._access}"}


def task_of(chosen: Chosen, config: LabelConfig) -> dict[str, Any]:
    """A task with its prediction, as an import has it."""
    row, key = chosen.row, key_of(chosen.row)
    data = {
        config.field: row.text, "corpusmill_key": key, "corpusmill_document": row.document_id, "corpusmill_run": row.run_id,
        "corpusmill_why": chosen.why,
    }  # fmt: skip
    if row.text_pair is not None and config.pair_field is not None:
        data[config.pair_field] = row.text_pair
    prediction: dict[str, Any] = {
        "model_version": model_version(row), "result": config.result(row.output or {}, key)
    }  # fmt: skip
    if row.score is not None:
        prediction["score"] = min(1.0, max(0.0, row.score))
    return {"data": data, "predictions": [prediction]}


def answers_of(task: Mapping[str, Any], config: LabelConfig) -> Iterator[Answer]:
    """What people say of a task, for each revision of a model that has looked at it."""
    newest = _newest(task)
    label = None if newest is None else config.answer(newest)
    if newest is None or label is None:
        return
    document = task["data"]["corpusmill_document"]
    at = _seconds(newest.get("updated_at") or newest.get("created_at"))
    for revision in sorted({found for version in _versions(task) if (found := revision_of(version)) is not None}):
        remote = {"id": str(task["id"]), "annotation": newest.get("id")}
        yield Answer(document_id=document, model_revision=revision, label=label, at=at, remote=remote)


def answered(task: Mapping[str, Any], config: LabelConfig) -> bool:
    """Whether people have said something of a task with a document of ours, whoever has predicted it."""
    newest = _newest(task)
    return newest is not None and config.answer(newest) is not None


def _newest(task: Mapping[str, Any]) -> Any:
    """The newest annotation of a document of ours, or None."""
    given = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
    if task.get("data", {}).get("corpusmill_document") is None:
        return None
    return max(given, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""), default=None)


def _versions(task: Mapping[str, Any]) -> set[str]:
    return {str(each.get("model_version")) for each in task.get("predictions") or () if each.get("model_version")}


def _seconds(time_: Any) -> float:
    return datetime.fromisoformat(str(time_).replace("Z", "+00:00")).timestamp() if time_ else 0.0


def _refuse(said: Sequence[str], what: str) -> None:
    if said:
        raise PlaceFault(f"label-studio-sdk refuses the {what}: {' '.join(said[:3])}")
