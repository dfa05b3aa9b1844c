"""Documents to look at as a file that a labelling tool imports.

Knows both tools' forms, with the names that their own documentation uses for a text and its label, and how a file appears
whole. Must not know requests. Answers come back by `PUT /corpora/{id}/references`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from corpusmill.schedules import ReviewFile
from pipeline.places import aside
from pipeline.review import Answer, Chosen, Pushed
from pipeline.review.label_config import LabelConfig
from pipeline.review.label_studio import task_of
from pipeline.review.naming import key_of, model_version


class ReviewedFile:
    """One file of one run."""

    def __init__(self, path: Path, target: ReviewFile) -> None:
        self._path = path
        self._format = target.format
        list_ = target.format == "label_studio"
        self._opening, self._between, self._closing = ("[\n", ",\n", "\n]\n") if list_ else ("", "", "")

    def push(self, chosen: Iterable[Chosen]) -> Iterator[Pushed]:
        """Everything into the file, which appears when the last one is asked for, and is written over by a repetition."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = aside(self._path)
        with part.open("w", encoding="utf-8") as file:
            file.write(self._opening)
            for number, each in enumerate(chosen):
                file.write((self._between if number else "") + self._entry(each))
                yield Pushed(document_id=each.row.document_id, model_revision=each.row.model_revision, why=each.why)
            file.write(self._closing)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)

    def pull(self) -> Iterator[Answer]:
        """None: a file does not answer."""
        return iter(())

    def _entry(self, chosen: Chosen) -> str:
        if self._format == "argilla":
            return json.dumps(argilla_record(chosen), ensure_ascii=False) + "\n"
        return json.dumps(task_of(chosen, _config(chosen)), ensure_ascii=False)


def argilla_record(chosen: Chosen) -> dict[str, object]:
    """A record as a JSON line for Argilla's `Dataset.records.log`: by the names of a field `text` and of a question `label`
    (`summary`, `translation`), whose suggestion it is. Score and agent of that need a mapping there, `{"label.score":
    "label.suggestion.score", "label.agent": "label.suggestion.agent"}`, and are left out without one."""
    row, output = chosen.row, chosen.row.output or {}
    name = next((each for each in ("summary", "translation") if each in output), "label")
    record: dict[str, object] = {
        "id": f"{key_of(row)}/{row.document_id}", "text": row.text, name: output.get("labels", output.get(name)),
        f"{name}.agent": model_version(row), "corpusmill_document": row.document_id, "corpusmill_run": row.run_id,
        "corpusmill_why": chosen.why,
    }  # fmt: skip
    if row.text_pair is not None:
        record["text_pair"] = row.text_pair
    if row.score is not None:
        record[f"{name}.score"] = row.score
    return record


def _config(chosen: Chosen) -> LabelConfig:
    """The labelling configuration that a file is for: a text `text`, and the choices or the text area `label`."""
    output = chosen.row.output or {}
    labels = frozenset(output.get("labels", [output["label"]] if "label" in output else []))
    return LabelConfig(
        control="label", shows="text", field="text", pair_field="text_pair", choices=labels, several="labels" in output
    )
