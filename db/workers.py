"""Workers: which processes were seen lately, on which device, with which models loaded.

Knows the table `workers`. Must not be asked who holds a shard: the shard's own row says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from db.engine import db_now
from db.tables import jobs, shards, workers

#: A worker not seen for this long counts as gone.
SEEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a worker says of itself: host, device, the loaded models as {"id", "revision"}, and bytes of memory by name."""

    hostname: str
    device: str
    models: Sequence[Mapping[str, Any]]
    memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as it was last seen. `shard` is the (job id, start, stop) of the shard in its model; times are seconds since
    1970 by the database's clock."""

    id: str
    hostname: str
    device: str
    models: Sequence[Mapping[str, Any]]
    memory: Mapping[str, int]
    shard: tuple[str, int, int] | None
    started_at: float
    seen_at: float


def seen(connection: Connection, worker_id: str, description: Description, shard_key: int | None) -> None:
    """Note that the worker is alive."""
    values = {
        "hostname": description.hostname, "device": description.device, "models": list(description.models),
        "memory": dict(description.memory), "shard_key": shard_key, "seen_at": db_now(),
    }  # fmt: skip
    if not connection.execute(update(workers).where(workers.c.id == worker_id).values(**values)).rowcount:
        connection.execute(insert(workers).values(id=worker_id, started_at=db_now(), **values))


def alive(connection: Connection) -> list[Worker]:
    """The workers seen lately, with what each has in hand: a shard that was given back or taken over since is left out."""
    rows = connection.execute(
        select(workers, jobs.c.id.label("job_id"), shards.c.start, shards.c.stop)
        .outerjoin(
            shards,
            (shards.c.key == workers.c.shard_key) & (shards.c.owner == workers.c.id) & (shards.c.state == "running"),
        )
        .outerjoin(jobs, jobs.c.key == shards.c.job_key)
        .where(workers.c.seen_at > db_now() - SEEN_SECONDS)
        .order_by(workers.c.hostname, workers.c.device, workers.c.id)
    )
    return [
        Worker(
            id=row.id, hostname=row.hostname, device=row.device, models=row.models, memory=row.memory or {},
            shard=(row.job_id, row.start, row.stop) if row.job_id is not None else None, started_at=row.started_at,
            seen_at=row.seen_at,
        )
        for row in rows
    ]  # fmt: skip


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
