"""Other people's tables as the tests name them: what is read from them and written to them."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from corpusmill.places import DatabasePlace, Places
from corpusmill.schedules import SqlSource, TableSink
from corpusmill.settings import Settings
from db.engine import Engine
from pipeline.sinks import Delivered, Sink, open_sink
from pipeline.sources import Source, open_source


def do(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def places(url: str) -> Places:
    return Places(databases={"day": DatabasePlace.model_validate({"url": url})})


def source(url: str, **fields: Any) -> Source:
    definition = SqlSource.model_validate({"type": "sql", "place": "day", "key": "id"} | fields)
    return open_source(definition, places(url), settings=Settings(), database=None)  # type: ignore[arg-type]


def sink(url: str, table: str = "labels") -> Sink:
    definition = TableSink.model_validate({"type": "table", "place": "day", "table": table})
    return open_sink(definition, places(url), run="run_a", date="2026-01-01")


def read(found: Source, since: Any = None) -> dict[str, str]:
    documents = list(found.read(since))
    assert len({document.id for document in documents}) == len(documents)
    return {document.id: document.text for document in documents}


def position(found: Source) -> Any:
    return json.loads(json.dumps(found.position()))


def delivered(document_id: str, label: str | None = "pos", **fields: Any) -> Delivered:
    values: dict[str, Any] = {
        "text": "text", "output": {"label": label, "scores": {"pos": 0.5, "a\0b": 0.25}}, "status": "succeeded",
        "error": None, "score": 0.5, "model_id": "m", "model_revision": "r", "run_id": "run_a",
        "labelled_at": 1_774_738_800.25,
    }  # fmt: skip
    return Delivered(document_id=document_id, label=label, **(values | fields))


def table(engine: Engine, name: str = "labels") -> dict[str, Any]:
    found = sa.Table(name, sa.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        return {row.document_id: row for row in connection.execute(sa.select(found))}
