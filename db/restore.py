"""A backup put back: into an empty data directory and an empty database.

Knows in which order, and what of the old system's work must not be taken for something that still runs. Must not know how a
backup is made: `db.backup` does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import delete, select, update

from corpora.disk import synced
from corpusmill.errors import Conflict, CorpusmillError, InvalidSettings
from corpusmill.settings import Settings
from corpusmill.status import Intent
from db.backup import Manifest, read_manifest, same_file, sha256_of, weigh
from db.dumps import DUMPS, dialect_of, load, require_empty
from db.engine import Connection, create_engine, knows, settle, transact
from db.tables import corpora, jobs, shards, workers

_ASIDE = "restore.partial"
#: What a data directory may hold and still count as empty: the lock of whoever restores.
_NOTHING = {"lock"}


def restore(settings: Settings, source: Path, *, files_only: bool = False) -> Manifest:
    """Put back the backup in `source`; the caller holds the data directory's lock.

    With `files_only`, or a backup without a dump, the database is left alone. Raises Conflict where data directory or
    database are not empty, InvalidSettings where there is no backup that this version can use, and CorpusmillError where
    it is damaged.
    """
    manifest, data_dir = read_manifest(source), settings.data_dir.absolute()
    with_database = manifest.database is not None and not files_only
    _refuse(settings, source, manifest, with_database=with_database)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = data_dir / _ASIDE
    placed: list[Path] = []
    try:
        for name in ("corpora", "uploads"):
            _bring(source / name, aside / name)
        if weigh(aside) != (manifest.files, manifest.bytes):
            raise CorpusmillError(f"Files of the backup {source} are missing or damaged; nothing was restored.")
        for name in ("corpora", "uploads"):
            (aside / name).rename(data_dir / name)
            placed.append(data_dir / name)
        aside.rmdir()
        synced(data_dir)
        # The database last: without it nobody takes the directory for a system that was restored.
        if with_database:
            load(settings.database, source / DUMPS[dialect_of(settings.database)], settled)
    except BaseException:
        for path in (aside, *placed):
            shutil.rmtree(path, ignore_errors=True)
        raise
    return manifest


def settled(url: str) -> None:
    """Make a copied database one whose system has just been stopped in good order: nobody holds anything."""
    engine = create_engine(url, pool_size=1)
    try:
        transact(engine, let_go)
        settle(engine)
    finally:
        engine.dispose()


def let_go(connection: Connection) -> None:
    """Give back, without charging a loss, what workers held when the copy was made. Shards of a job that is being cancelled
    are left to the sweeper, which ends them."""
    cancelling = select(jobs.c.key).where(jobs.c.intent == Intent.CANCEL)
    held = shards.c.state == "running"
    connection.execute(
        update(shards)
        .where(held, shards.c.job_key.not_in(cancelling))
        .values(state="pending", owner=None, lease_until=None)
    )
    connection.execute(update(shards).where(held).values(lease_until=0.0))
    connection.execute(update(shards).where(shards.c.state == "pending").values(published_at=None, not_before=0.0))
    connection.execute(update(corpora).where(corpora.c.status == "validating").values(owner=None, lease_until=0.0))
    connection.execute(delete(workers))


def _refuse(settings: Settings, source: Path, manifest: Manifest, *, with_database: bool) -> None:
    data_dir = settings.data_dir.absolute()
    if data_dir.exists() and {path.name for path in data_dir.iterdir()} - _NOTHING:
        raise Conflict(
            f"The data directory {data_dir} is not empty: stop what uses it and move it away, or restore into another."
        )
    if not knows(manifest.revision):
        raise InvalidSettings(
            f"The backup was made by version {manifest.version}, whose tables ({manifest.revision}) this program does not "
            "know: install that version."
        )
    if not with_database:
        return
    kind = dialect_of(settings.database)
    if manifest.database != kind:
        raise InvalidSettings(f"The backup's database is {manifest.database}; CORPUSMILL_DATABASE_URL names {kind}.")
    dump = source / DUMPS[kind]
    if not dump.exists() or sha256_of(dump) != manifest.dump_sha256:
        raise CorpusmillError(f"The backup's file {dump.name} is missing or damaged; nothing was restored.")
    require_empty(settings.database)


def _bring(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    if not source.is_dir():
        return
    for path in source.iterdir():
        if path.is_dir():
            _bring(path, target / path.name)
        else:
            same_file(path, target / path.name)
    synced(target)
