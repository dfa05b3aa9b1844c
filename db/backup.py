"""Backups: the database at one moment, with the files of every corpus that it knows, while the system runs.

Knows which files a corpus has, and how a backup lies on disk. Must not know how a database is copied: `db.dumps` does.

A backup is a directory: `manifest.json`, the dump, `corpora/` and `uploads/`. Files are never changed once they are in
place, so those of a backup on the same disk are the system's own under a second name, which cost no room.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

from corpora.disk import synced
from corpusmill import __version__
from corpusmill.errors import Conflict, InvalidSettings
from corpusmill.settings import Settings
from db import forgetting
from db.corpora import store_directory, upload_path
from db.dumps import DUMPS, Dialect, Snapshot, dialect_of, snapshot

MANIFEST = "manifest.json"
_FORMAT = 1
#: A file may go between the look at the database and the look at the disk, with the row that named it.
_LOOKS = 5
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds. `database` is the kind of database whose dump is in it, or None; `files` and `bytes` are those of
    corpora and uploads; `missing` are corpora whose files the system itself had lost."""

    format: int = _FORMAT
    version: str
    revision: str
    made_at: str
    database: Dialect | None
    dump_sha256: str | None
    corpora: int
    files: int
    bytes: int
    missing: tuple[str, ...] = ()


def back_up(settings: Settings, target: Path, *, files_only: bool = False) -> Manifest:
    """Write a backup to `target`, which appears when it is whole.

    With `files_only` the database is left out; its own copy must be older than this one. Raises Conflict where there is
    something already, InvalidSettings and DatabaseUnavailable where the database cannot be copied, OSError.
    """
    target, data_dir = target.absolute(), settings.data_dir.absolute()
    if target.is_relative_to(data_dir):
        raise InvalidSettings(f"{target} lies in the data directory; a backup belongs elsewhere, best on another disk.")
    with _aside(target) as partial:
        manifest = _copy(settings, partial, dumping=not files_only)
        written = partial / MANIFEST
        written.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
        for path in (written, partial):
            synced(path)
        partial.rename(target)
    synced(target.parent)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """What the backup in a directory holds. Raises InvalidSettings where there is none, or one that cannot be read."""
    try:
        found = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise InvalidSettings(f"{source} is a backup in a form that this version does not know: use a newer one.")
        return Manifest(**{**found, "missing": tuple(found["missing"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidSettings(f"{source} is no backup: its {MANIFEST} is missing or damaged.") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_file(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)
        synced(target)


def weigh(folder: Path) -> tuple[int, int]:
    """How many files corpora and uploads in a directory are, and their bytes."""
    sizes = [path.stat().st_size for name in ("corpora", "uploads") for path in _files(folder / name)]
    return len(sizes), sum(sizes)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A directory of our own beside the target, empty, removed again unless it was renamed."""
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Another backup is being written to {target}.") from None
        if target.exists():
            partial.rmdir()
            raise Conflict(f"{target} exists already: a backup is written to a new directory.")
        for left in partial.iterdir():  # by one that was cut off
            _remove(left)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _copy(settings: Settings, partial: Path, *, dumping: bool) -> Manifest:
    """Everything but the manifest. The most is copied before the moment of the backup, so that the database, which has to
    keep that moment for us, does so for a short time."""
    kind, data_dir = dialect_of(settings.database), settings.data_dir
    for name in ("corpora", "uploads"):
        (partial / name).mkdir()
    with snapshot(settings.database, dumping=False) as early:
        known = early.corpora
    _take(data_dir, partial, known)
    missing: list[str] = []
    for look in range(_LOOKS):
        with snapshot(settings.database, dumping=dumping) as taken:
            left = _take(data_dir, partial, taken.corpora)
            if not left or left == missing or look == _LOOKS - 1:
                dump = partial / DUMPS[kind]
                if dumping:
                    taken.dump(dump)
                    synced(dump)
                return _described(partial, taken, left, kind if dumping else None)
            missing = left
        sleep(0.2)
    raise AssertionError("the last look returns")


def _described(partial: Path, taken: Snapshot, missing: list[str], kind: Dialect | None) -> Manifest:
    _drop_others(partial, taken.corpora)
    files, size = weigh(partial)
    for folder in (*(partial / "corpora").iterdir(), partial / "corpora", partial / "uploads"):
        synced(folder)
    return Manifest(
        version=__version__, revision=taken.revision, made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        database=kind, dump_sha256=sha256_of(partial / DUMPS[kind]) if kind else None, corpora=len(taken.corpora),
        files=files, bytes=size, missing=tuple(missing),
    )  # fmt: skip


def _take(data_dir: Path, partial: Path, known: Mapping[str, str]) -> list[str]:
    """Bring the files of these corpora into the backup, unless they are there. Returns those whose files are not to be had:
    the documents of one that is ready or deleted, the upload of one that is still to be read. One that was rejected needs
    none."""
    missing = []
    for corpus_id, status in known.items():
        if status == "validating":
            there = _take_file(upload_path(data_dir, corpus_id), upload_path(partial, corpus_id))
        elif status == "deleted":  # restored to its old place, from which a sweeper moves it again
            hidden, target = forgetting.folder(data_dir) / corpus_id, store_directory(partial, corpus_id)
            there = _take_store(store_directory(data_dir, corpus_id), target) or _take_store(hidden, target)
        else:
            there = _take_store(store_directory(data_dir, corpus_id), store_directory(partial, corpus_id))
        if not there and status != "rejected":
            missing.append(corpus_id)
    return missing


def _take_file(source: Path, target: Path) -> bool:
    try:
        if not target.exists():
            same_file(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    return True


def _take_store(source: Path, target: Path) -> bool:
    known = target.exists()
    target.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        # What was taken before may have got references since.
        for path in sorted(source.iterdir()):
            with suppress(FileNotFoundError):  # references that are no longer in force are removed
                if not (target / path.name).exists():
                    same_file(path, target / path.name)
    # A corpus that is removed is renamed first: still here means that all of it was here.
    whole = (source / "corpus.json").exists()
    if not whole and not known:
        shutil.rmtree(target)
    return whole or known


def _drop_others(partial: Path, known: Mapping[str, str]) -> None:
    """Remove what was copied before the moment of the backup and had gone, or had been read, by then."""
    for path in list((partial / "uploads").iterdir()):
        if known.get(path.name) != "validating":
            path.unlink()
    for path in list((partial / "corpora").iterdir()):
        if path.name not in known:
            shutil.rmtree(path)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
