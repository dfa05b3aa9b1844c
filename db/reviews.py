"""Reviews: which documents of a schedule people were asked about, and what they said.

Knows the table `reviews`. Must not know where people look, or what a label means.

A row is of a document and a model's revision. Where the same document is sent again with another text, the row begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, tuple_, update

from db.engine import db_now, insert_into
from db.tables import reviews, runs

#: (document id, model revision)
Pair = tuple[str, str]
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A document that people were asked about. `label` is what the model said of it: a label, or several."""

    document_id: str
    model_revision: str
    why: str
    label: str | Sequence[str] | None
    score: float | None
    remote_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What there is of a document that people were asked about; `corpus_id` is that of the run that asked, `several`
    whether the model gives labels by the list."""

    run_key: int
    corpus_id: str | None
    remote_id: str | None
    answer: Any
    several: bool

    def as_the_model_says(self, label: Any) -> Any:
        """What people say, in the form of the model's own label: a question that takes several has one as a list of one."""
        one = isinstance(label, list) and len(label) == 1 and not self.several
        return label[0] if one else label


def sent(connection: Connection, schedule_key: int, run_key: int, documents: Sequence[Sent]) -> None:
    """Note that people were asked; repeating it for the same run changes nothing that they have said since."""
    for start in range(0, len(documents), _AT_ONCE):
        rows = [
            {
                "schedule_key": schedule_key, "run_key": run_key, "document_id": each.document_id,
                "model_revision": each.model_revision, "why": each.why, "label": _label(each.label),
                "score": each.score, "remote_id": each.remote_id, "pushed_at": db_now(),
            }
            for each in documents[start : start + _AT_ONCE]
        ]  # fmt: skip
        statement = insert_into(connection, reviews).values(rows)
        fresh = {
            name: statement.excluded[name]
            for name in ("run_key", "why", "label", "score", "remote_id", "pushed_at")
        } | {"answer": None, "answered_at": None}  # fmt: skip
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["schedule_key", "document_id", "model_revision"],
                set_=fresh,
                where=(reviews.c.run_key != statement.excluded.run_key),
            )
        )


def known(connection: Connection, schedule_key: int, pairs: Collection[Pair]) -> dict[Pair, Known]:
    """What there is of these documents; those that nobody was asked about are missing."""
    wanted = list(pairs)
    found: dict[Pair, Known] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        rows = connection.execute(
            select(
                reviews.c.document_id, reviews.c.model_revision, reviews.c.run_key, reviews.c.remote_id, reviews.c.answer,
                reviews.c.label, runs.c.corpus_id,
            )
            .join(runs, runs.c.key == reviews.c.run_key)
            .where(reviews.c.schedule_key == schedule_key)
            .where(tuple_(reviews.c.document_id, reviews.c.model_revision).in_(wanted[start : start + _AT_ONCE]))
        )  # fmt: skip
        for row in rows:
            found[row.document_id, row.model_revision] = Known(
                run_key=row.run_key, corpus_id=row.corpus_id, remote_id=row.remote_id, answer=row.answer,
                several=_is_set(row.label),
            )  # fmt: skip
    return found


def answered(connection: Connection, schedule_key: int, answers: Mapping[Pair, tuple[Any, float]]) -> None:
    """Keep what people say: (label, seconds since 1970) for each document; a later answer takes an earlier one's place."""
    rows = [
        {"document": document, "revision": revision, "said": {"label": label}, "at": at}
        for (document, revision), (label, at) in answers.items()
    ]
    if rows:
        connection.execute(
            update(reviews)
            .where(reviews.c.schedule_key == schedule_key, reviews.c.document_id == bindparam("document"))
            .where(reviews.c.model_revision == bindparam("revision"))
            .values(answer=bindparam("said"), answered_at=bindparam("at")),
            rows,
        )


def audited(connection: Connection, schedule_key: int, model_revision: str) -> tuple[int, int]:
    """The track record of a model's revision: of the documents that were drawn by chance, how many people have answered, and
    on how many of these they agree with the model."""
    query = (
        select(reviews.c.label, reviews.c.answer)
        .where(reviews.c.schedule_key == schedule_key, reviews.c.model_revision == model_revision)
        .where(reviews.c.why == "audit", reviews.c.answered_at.is_not(None))
        .execution_options(yield_per=2_000)
    )
    answers = agreed = 0
    for row in connection.execute(query):
        answers += 1
        agreed += row.label == _label(row.answer["label"])
    return answers, agreed


def _label(label: str | Iterable[str] | None) -> str | None:
    """A label as it is compared: several at once are a set."""
    if label is None or isinstance(label, str):
        return label
    return json.dumps(sorted({str(each) for each in label}), ensure_ascii=False)


def _is_set(label: str | None) -> bool:
    """Whether a label as it is compared is of several."""
    try:
        return isinstance(json.loads(label or ""), list)
    except ValueError:
        return False
