"""Outputs that are kept to be used again: by scope, which is all that shapes an output besides the text, and text hash.

Knows the tables `reuse_scopes` and `reused_outputs`, and how long an output stays. Must not know what a scope is made of
(`worker.reuse`), nor jobs: what is kept outlives the job that it came from.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from db.engine import db_now, insert_into
from db.tables import reuse_scopes, reused_outputs

#: Hashes in one statement.
_AT_ONCE = 1_000
#: In ASCII alone: a NUL, which PostgreSQL takes in no text, stands as an escape.
_JSON = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
#: The key space is walked in this many slices, none of them more than a short transaction at ten million keys.
SLICES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """All that shapes an output besides the text, in words, and the hash of that."""

    hash: str
    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a model said of a text that it could be run on; `age` is how many seconds ago it was last noted as used."""

    output: Mapping[str, Any]
    n_tokens: int
    n_segments: int
    truncated: bool
    age: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What a shard leaves for others: outputs by text hash, and the hashes of those it used that are to be noted so."""

    scope: Scope
    outputs: Mapping[bytes, Output] = field(default_factory=dict)
    used: Sequence[bytes] = ()


def find(connection: Connection, scope: Scope, hashes: Collection[bytes]) -> dict[bytes, Output]:
    """Those of the texts for which there is an output in the scope."""
    key = connection.scalar(select(reuse_scopes.c.key).where(reuse_scopes.c.hash == scope.hash))
    if key is None:
        return {}
    columns = reused_outputs.c
    query = select(
        columns.text_hash, columns.output, columns.n_tokens, columns.n_segments, columns.truncated,
        (db_now() - columns.used_at).label("age"),
    ).where(columns.scope_key == key)  # fmt: skip
    found: dict[bytes, Output] = {}
    for some in _batched(sorted(set(hashes))):
        for row in connection.execute(query.where(columns.text_hash.in_(some))):
            found[bytes(row.text_hash)] = Output(
                output=json.loads(row.output), n_tokens=row.n_tokens, n_segments=row.n_segments,
                truncated=row.truncated, age=float(row.age),
            )  # fmt: skip
    return found


def keep(connection: Connection, keeping: Keeping) -> None:
    """Keep outputs in the caller's transaction, where there are none yet, and note that others were used.

    Rows go in by the order of their keys, so that of two workers with the same texts one waits for the other and never
    each for the other; and a note is left undone where somebody else holds the row.
    """
    if not keeping.outputs and not keeping.used:
        return
    key = _scope_key(connection, keeping.scope)
    now = float(connection.execute(select(db_now())).scalar_one())
    rows = [
        (key, text_hash, _JSON.encode(output.output), output.n_tokens, output.n_segments, output.truncated, now)
        for text_hash, output in sorted(keeping.outputs.items())
    ]
    if rows:
        _insert(connection, rows)
    columns = reused_outputs.c
    for some in _batched(sorted(keeping.used)):
        mine = (columns.scope_key == key, columns.text_hash.in_(some))
        if connection.dialect.name == "postgresql":
            free = select(columns.text_hash).where(*mine).with_for_update(key_share=True, skip_locked=True)
            mine = (columns.scope_key == key, columns.text_hash.in_(free))
        connection.execute(update(reused_outputs).where(*mine).values(used_at=now))


def forget_unused(connection: Connection, *, seconds: float, part: int) -> int:
    """Delete the outputs of one of the `SLICES` of the key space that no job has used for `seconds`; says how many.

    A slice and not all that is old: an index on the time would cost each row more than the walk does.
    """
    return sum(
        connection.execute(
            delete(reused_outputs).where(*_slice(key, part), reused_outputs.c.used_at < db_now() - seconds)
        ).rowcount
        for key in list(connection.scalars(select(reuse_scopes.c.key)))
    )


def keeps_any(connection: Connection) -> bool:
    """Whether there may be an output of any text."""
    return connection.scalar(select(reuse_scopes.c.key).limit(1)) is not None


def forget_texts(connection: Connection, hashes: Collection[bytes]) -> int:
    """Delete what is kept of these texts, in whatever scope; says how many outputs that were."""
    gone = 0
    for key in list(connection.scalars(select(reuse_scopes.c.key))):
        for some in _batched(sorted(set(hashes))):
            gone += connection.execute(
                delete(reused_outputs).where(
                    reused_outputs.c.scope_key == key, reused_outputs.c.text_hash.in_(some)
                )
            ).rowcount  # fmt: skip
    return gone


def forget_scope(connection: Connection, scope_key: int, *, part: int) -> int:
    """Delete what a slice of the key space holds of a scope, whenever it was used; says how many outputs that were."""
    return connection.execute(delete(reused_outputs).where(*_slice(scope_key, part))).rowcount


def forget_empty_scopes(connection: Connection) -> None:
    """Delete the scopes in which nothing is kept any more."""
    kept = select(reused_outputs.c.scope_key).where(reused_outputs.c.scope_key == reuse_scopes.c.key).exists()
    connection.execute(delete(reuse_scopes).where(~kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRow:
    """A scope as it is kept. `outputs` counts what is in it, and `created_at` is in seconds since 1970."""

    key: int
    description: Mapping[str, Any]
    created_at: float
    outputs: int


def scopes(connection: Connection, *, model: str | None = None) -> list[ScopeRow]:
    """The scopes, oldest first, of one model where it is given."""
    counted = (
        select(reused_outputs.c.scope_key, func.count().label("outputs"))
        .group_by(reused_outputs.c.scope_key)
        .subquery()
    )
    rows = connection.execute(
        select(reuse_scopes, func.coalesce(counted.c.outputs, 0).label("outputs"))
        .outerjoin(counted, counted.c.scope_key == reuse_scopes.c.key)
        .order_by(reuse_scopes.c.key)
    )
    found = [
        ScopeRow(key=row.key, description=row.description, created_at=row.created_at, outputs=row.outputs)
        for row in rows
    ]
    return [row for row in found if model is None or row.description.get("model") == model]


def _slice(scope_key: int, part: int) -> tuple[Any, ...]:
    first = bytes([part])
    mine = (reused_outputs.c.scope_key == scope_key, reused_outputs.c.text_hash >= first)
    return mine if part == SLICES - 1 else (*mine, reused_outputs.c.text_hash < bytes([part + 1]))


def _scope_key(connection: Connection, scope: Scope) -> int:
    """The scope's key, made where there is none, and held so that nobody deletes it before the caller commits."""
    held = (
        select(reuse_scopes.c.key).where(reuse_scopes.c.hash == scope.hash).with_for_update(key_share=True, read=True)
    )
    while (key := connection.scalar(held)) is None:
        connection.execute(
            insert_into(connection, reuse_scopes)
            .values(hash=scope.hash, description=dict(scope.description), created_at=db_now())
            .on_conflict_do_nothing()
        )
    return int(key)


_COLUMNS = "scope_key, text_hash, output, n_tokens, n_segments, truncated, used_at"
_INSERT_SQLITE = f"INSERT INTO reused_outputs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"  # noqa: S608
_INSERT_POSTGRESQL = (
    f"INSERT INTO reused_outputs ({_COLUMNS}) SELECT * FROM unnest("  # noqa: S608
    "%s::bigint[], %s::bytea[], %s::text[], %s::bigint[], %s::integer[], %s::boolean[], %s::double precision[]) "
    "ON CONFLICT DO NOTHING"
)


def _insert(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_INSERT_POSTGRESQL, tuple(list(column) for column in zip(*rows, strict=True)))
    else:
        connection.exec_driver_sql(_INSERT_SQLITE, rows)


def _batched(hashes: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(hashes), _AT_ONCE):
        yield hashes[start : start + _AT_ONCE]
