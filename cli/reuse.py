"""`corpusmill reuse list|drop`: the outputs that jobs have kept for others, seen and deleted by the operator.

Knows the settings, the corpora on disk and how findings are shown. Must not know how outputs are kept: `db.reuse` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Data
from corpusmill.settings import Settings, settings_from
from corpusmill.times import rfc3339

if TYPE_CHECKING:
    from db.engine import Engine

reuse = typer.Typer(add_completion=False, no_args_is_help=True)


@reuse.callback()
def _reuse() -> None:
    """Look after the outputs that jobs with --reuse keep for others."""


@reuse.command("list")
def list_(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What is kept: for each model and set of parameters, how many outputs."""
    from cli.output import print_json, print_table
    from db import reuse as rows
    from db.engine import reading

    with _database(settings_from(os.environ, data_dir=data)) as database, reading(database) as connection:
        found = rows.scopes(connection)
    if as_json:
        print_json({"data": [
            {"scope": row.key, "outputs": row.outputs, "created_at": rfc3339(row.created_at), **row.description}
            for row in found
        ]})  # fmt: skip
        return
    print_table(
        ("SCOPE", "TASK", "MODEL", "REVISION", "ENGINE", "OUTPUTS", "SINCE"),
        [
            (
                row.key, row.description["task"], row.description["model"], str(row.description["revision"])[:19],
                row.description["runtime"].get("engine"), row.outputs, rfc3339(row.created_at)[:10],
            )
            for row in found
        ],
    )  # fmt: skip


@reuse.command()
def drop(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every output.")] = False,
    model: Annotated[str | None, typer.Option(help="Those of one model.", show_default=False)] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Those of the texts of a corpus, which itself stays.", show_default=False)
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0.0, help="Those not used for so many days.", show_default=False)
    ] = None,
    data: Data = None,
) -> None:
    """Delete kept outputs. Jobs keep their results; whoever asks for the same texts again has them run."""
    from cli.output import say
    from db import reuse as rows
    from db.engine import settle, transact

    if sum((everything, model is not None, corpus is not None, unused_days is not None)) != 1:
        raise typer.BadParameter("Say which outputs: one of --all, --model, --corpus and --unused-days.")
    settings = settings_from(os.environ, data_dir=data)
    with _database(settings) as database:
        if corpus is not None:
            gone = _drop_texts(database, settings, corpus)
        elif unused_days is not None:
            gone = _drop_unused(database, unused_days * 86_400)
        else:
            gone = _drop_scopes(database, model)
        transact(database, rows.forget_empty_scopes)
        settle(database)
    say(f"Deleted {gone:,} outputs.")


def _drop_unused(database: Engine, seconds: float) -> int:
    from db import reuse as rows
    from db.engine import transact

    return sum(
        transact(
            database,
            lambda connection, part=part: rows.forget_unused(connection, seconds=seconds, part=part),  # type: ignore[misc]
        )
        for part in range(rows.SLICES)
    )


def _drop_scopes(database: Engine, model: str | None) -> int:
    from db import reuse as rows
    from db.engine import reading, transact

    with reading(database) as connection:
        keys = [row.key for row in rows.scopes(connection, model=model)]
    return sum(
        transact(
            database,
            lambda connection, key=key, part=part: rows.forget_scope(connection, key, part=part),  # type: ignore[misc]
        )
        for key in keys
        for part in range(rows.SLICES)
    )


def _drop_texts(database: Engine, settings: Settings, corpus: str) -> int:
    """Raises NotFound where the corpus's files are not here."""
    from corpora import Store
    from db import reuse as rows
    from db.corpora import store_directory
    from db.engine import transact
    from db.forgetting import hashes_from

    store = Store(store_directory(settings.data_dir, corpus))
    gone = position = 0
    while hashes := hashes_from(store, position):
        gone += transact(database, lambda connection, hashes=hashes: rows.forget_texts(connection, hashes))  # type: ignore[misc]
        position += len(hashes)
    return gone


@contextmanager
def _database(settings: Settings) -> Iterator[Engine]:
    """The database, whose tables must be those of this program. Raises InvalidSettings where they are not."""
    from corpusmill.errors import InvalidSettings
    from db.engine import create_engine, usable

    engine = create_engine(settings.database, pool_size=1)
    try:
        if not usable(engine):
            raise InvalidSettings("The database's tables are not those of this version: run `corpusmill db upgrade`.")
        yield engine
    finally:
        engine.dispose()
