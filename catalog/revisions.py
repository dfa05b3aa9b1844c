"""A directory's revision: a hash over its files, so that equal contents have equal revisions on every machine.

Knows bytes, and a cache of digests on disk, since weights are gigabytes and asked for at every submission. Must not
know what a model is.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from catalog.files import DirectoryFiles

#: Smaller files are read again each time: as fast as asking the cache.
_CACHED_FROM = 256 << 10


def revision_of(files: DirectoryFiles, cache_dir: Path) -> str:
    """`sha256:` and the hash over the relevant files' names and contents."""
    whole = hashlib.sha256()
    for name in files.relevant():
        whole.update(f"{name}\0{_digest(files.path / name, cache_dir)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _digest(path: Path, cache_dir: Path) -> str:
    stat = path.stat()
    if stat.st_size < _CACHED_FROM:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    # the change time moves even where a copy keeps size and modification time
    key = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    kept = cache_dir / "digests" / hashlib.sha256(key.encode()).hexdigest()
    try:
        return kept.read_text(encoding="ascii")
    except OSError:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with suppress(OSError):  # a disk that is full or read-only costs the time to hash it again
            _keep(kept, digest)
        return digest


def _keep(path: Path, digest: str) -> None:
    """Write whole or not at all: the API and the workers may hash the same file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(digest)
    Path(name).replace(path)
