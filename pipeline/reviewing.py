"""The fourth stage: what people have said since comes in, and what they are to look at next goes out.

Knows the order of the two, and how answers become references. Must not know any labelling tool but by its shape.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import structlog

from corpusmill.errors import Conflict, CorpusDamaged, NotFound, PlaceFault
from corpusmill.ids import new_id
from corpusmill.schedules import Review
from db import files, ledger, references, reviews, runs
from db.corpora import upload_path
from db.engine import reading
from db.reviews import Pair, Sent
from db.runs import Run
from pipeline.delivering import job_of, rows_of
from pipeline.places import load_places
from pipeline.report import Audit
from pipeline.review import Answer, Chosen, OpenReviewers, Pushed, Reviewers
from pipeline.review.choosing import choose
from pipeline.work import Step, Work, date_of

log = structlog.get_logger(__name__)
_BATCH = 500
#: So many nights back a run looks for documents that could not be sent to people.
NIGHTS_MADE_UP = 31


def review(work: Work, open_reviewers: OpenReviewers) -> Step:
    """Take in answers, then push the doubtful documents and the audit sample: what earlier runs could not, then the run's
    own. Done twice, it pushes and keeps the same."""
    definition = work.run.definition.review
    if definition is None:
        return Step(stage="report")
    begun = time.monotonic()
    reviewers = open_reviewers(definition, load_places(work.settings), run=work.run.id, date=work.date)
    answers = take_in(work, reviewers)
    made_up = _make_up(work, open_reviewers, definition)
    pushed = _push(work, work.run, reviewers, definition)
    seconds = dict(work.run.counts.get("seconds", {})) | {"review": round(time.monotonic() - begun, 3)}
    documents = dict(work.run.counts.get("documents", {})) | {"reviewed": sum(pushed.values())}
    counts = work.counted(documents=documents, seconds=seconds, reviewed=pushed, answered=answers, made_up=made_up)
    return Step(stage="report", values={"counts": counts})


def audit_now(work: Work) -> Audit | None:
    """What people have said by now of the audited documents of the run's model; None where it has no model."""
    revision = work.run.counts.get("model", {}).get("revision")
    if revision is None or work.run.definition.review is None:
        return None
    with reading(work.database) as connection:
        answered, agreed = reviews.audited(connection, work.run.schedule_key, revision)
    return Audit(answered=answered, agreed=agreed)


def take_in(work: Work, reviewers: Reviewers) -> int:
    """Keep the answers that are new, as references of the corpora that their documents are in, so that metrics are computed
    again; returns how many. Cut off between the two, it attaches the same references again, which changes nothing."""
    new = others = 0
    answers = reviewers.pull()
    while batch := list(islice(answers, _BATCH)):
        work.hold()
        kept, by_corpus, unknown = _new(work, batch)
        for corpus_id, labels in by_corpus.items():
            _attach(work, corpus_id, labels)
        work.write(lambda connection, kept=kept: reviews.answered(connection, work.run.schedule_key, kept))  # type: ignore[misc]
        new, others = new + len(kept), others + unknown
    if others:
        log.info("answers left out", run=work.run.id, why="not sent by this schedule", documents=others)
    return new


def _new(work: Work, batch: Sequence[Answer]) -> tuple[dict[Pair, tuple[Any, float]], dict[str, dict[str, Any]], int]:
    """Which answers say something new, by corpus the labels of its documents, and how many are of what the schedule has not
    sent. An answer about another text of a document than the one that was pushed last says nothing of it."""
    pairs = [(answer.document_id, answer.model_revision) for answer in batch]
    with reading(work.database) as connection:
        known = reviews.known(connection, work.run.schedule_key, pairs)
    kept: dict[Pair, tuple[Any, float]] = {}
    by_corpus: dict[str, dict[str, Any]] = {}
    for pair, answer in zip(pairs, batch, strict=True):
        found = known.get(pair)
        if found is None or (answer.remote or {}).get("id") != found.remote_id:
            continue
        label = found.as_the_model_says(answer.label)
        if found.answer is not None and found.answer["label"] == label:
            continue
        kept[pair] = (label, answer.at)
        if found.corpus_id is not None:
            by_corpus.setdefault(found.corpus_id, {})[answer.document_id] = label
    return kept, by_corpus, sum(pair not in known for pair in pairs)


def _attach(work: Work, corpus_id: str, labels: Mapping[str, Any]) -> None:
    body = upload_path(work.settings.data_dir, new_id("references"))
    files.make_folders(work.database, work.settings.data_dir)
    try:
        with body.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"id": id_, "reference": label}) + "\n" for id_, label in labels.items())
        references.attach(work.database, work.settings, corpus_id, body, None, keep=True)
    except (NotFound, Conflict) as error:
        if isinstance(error, Conflict):
            raise  # another set came between: the stage is done again
        log.info("answers kept without their corpus", corpus=corpus_id, why=str(error))
    finally:
        body.unlink(missing_ok=True)


def _make_up(work: Work, open_reviewers: OpenReviewers, definition: Review) -> int:
    """Push what earlier runs could not, oldest first; returns how many documents that were. What is refused is left to the
    next run, and does not keep this run's own documents back."""
    with reading(work.database) as connection:
        earlier = runs.before(connection, work.run, NIGHTS_MADE_UP)
    made_up = 0
    for run in reversed([run for run in earlier if "review_failed" in run.counts]):
        reviewers = open_reviewers(definition, load_places(work.settings), run=run.id, date=date_of(run))
        try:
            pushed = _push(work, run, reviewers, definition)
        except PlaceFault as error:
            log.warning("an earlier run's documents were refused", run=run.id, why=str(error))
            continue
        except (NotFound, CorpusDamaged) as error:  # its job or its corpus was deleted, or lost
            log.warning("an earlier run's documents are gone", run=run.id, why=str(error))
            pushed = {}
        counts = {name: value for name, value in run.counts.items() if name != "review_failed"} | {"reviewed": pushed}
        error_ = None if run.error == run.counts["review_failed"] else run.error
        work.write(
            lambda connection, run=run, counts=counts, error=error_: runs.amend(  # type: ignore[misc]
                connection, run.key, counts=counts, error=error
            )
        )
        made_up += sum(pushed.values())
    return made_up


def _push(work: Work, run: Run, reviewers: Reviewers, definition: Review) -> dict[str, int]:
    """How many documents of a run went out, by the rule that sent them."""
    rows_ = rows_of(work, run, job_of(work, run))
    chosen = _Noted(work.outgoing(_current(work, run, choose(rows_, definition))))
    counts: dict[str, int] = {}
    pushed = reviewers.push(chosen)
    while batch := list(islice(pushed, _BATCH)):
        work.go_on()
        rows = [chosen.sent(each) for each in batch]
        work.write(
            lambda connection, rows=rows: reviews.sent(connection, run.schedule_key, run.key, rows)  # type: ignore[misc]
        )
        for each in batch:
            counts[each.why] = counts.get(each.why, 0) + 1
    return counts


def _current(work: Work, run: Run, chosen: Iterator[Chosen]) -> Iterator[Chosen]:
    """Without the documents that a later run has labelled again, or found gone."""
    while batch := list(islice(chosen, _BATCH)):
        ids = [each.row.document_id for each in batch]
        with reading(work.database) as connection:
            current = ledger.labelled_by(connection, run.schedule_key, run.key, ids)
        yield from (each for each in batch if each.row.document_id in current)


class _Noted:
    """The chosen documents as they pass by: what the model said of one is needed until it has been pushed."""

    def __init__(self, chosen: Iterator[Chosen]) -> None:
        self._chosen = chosen
        self._passing: dict[Pair, Chosen] = {}

    def __iter__(self) -> Iterator[Chosen]:
        for each in self._chosen:
            self._passing[each.row.document_id, each.row.model_revision] = each
            yield each

    def sent(self, pushed: Pushed) -> Sent:
        """What is kept of a document that was pushed."""
        row = self._passing.pop((pushed.document_id, pushed.model_revision)).row
        output = row.output or {}
        return Sent(
            document_id=row.document_id, model_revision=row.model_revision, why=pushed.why, score=row.score,
            label=output.get("labels", row.label), remote_id=pushed.remote_id,
        )  # fmt: skip
