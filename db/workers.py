"""Workers: which processes were seen lately, on which device, with which models loaded.

Knows the table `workers`. Must not be asked who holds a shard: the shard's own row says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from db.engine import db_now
from db.tables import workers

#: A worker not seen for this long counts as gone.
SEEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a worker says of itself: host, device, and the loaded models as {"id", "revision"}."""

    hostname: str
    device: str
    models: Sequence[Mapping[str, Any]]


def seen(connection: Connection, worker_id: str, description: Description, shard_key: int | None) -> None:
    """Note that the worker is alive."""
    values = {
        "hostname": description.hostname, "device": description.device, "models": list(description.models),
        "shard_key": shard_key, "seen_at": db_now(),
    }  # fmt: skip
    if not connection.execute(update(workers).where(workers.c.id == worker_id).values(**values)).rowcount:
        connection.execute(insert(workers).values(id=worker_id, started_at=db_now(), **values))


def loaded_models(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """Worker ids by (model id, revision), of the workers seen lately."""
    found: dict[tuple[str, str], list[str]] = {}
    rows = connection.execute(
        select(workers.c.id, workers.c.models).where(workers.c.seen_at > db_now() - SEEN_SECONDS).order_by(workers.c.id)
    )
    for row in rows:
        for model in row.models:
            found.setdefault((model["id"], model["revision"]), []).append(row.id)
    return found


def forget_gone(connection: Connection, *, after: float) -> None:
    """Delete the rows of workers not seen for `after` seconds."""
    connection.execute(delete(workers).where(workers.c.seen_at < db_now() - after))
