"""An upload in, a stored corpus out.

Knows the two ends, readers and store. Must not know who uploads or what the corpus is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from corpora.formats import Upload
from corpora.options import Options
from corpora.readers import read
from corpora.store_writer import StoreWriter
from corpora.summary import IngestSummary
from corpusmill.documents import Document, IngestError


def ingest(raw: Path, upload: Upload, options: Options, target: Path) -> IngestSummary:
    """Store the documents of the file `raw` as the corpus at `target`, which appears whole or not at all.

    An upload without a single document is stored too, for its errors can be read then. Raises InvalidRequest,
    UnsupportedFormat and TooLarge where the upload cannot be used, StorageFull, and Conflict where `target` exists.
    """
    with StoreWriter(target) as writer:
        _write(read(raw, upload, options, scratch=target.parent), writer)
        return writer.finish(upload, size=raw.stat().st_size, options=options)


def store_items(items: Iterable[Document | IngestError], target: Path) -> IngestSummary:
    """Store documents and errors that came in no file (`records.documents_of`). Raises StorageFull and Conflict."""
    with StoreWriter(target) as writer:
        _write(items, writer)
        return writer.finish()


def _write(items: Iterable[Document | IngestError], writer: StoreWriter) -> None:
    for item in items:
        if isinstance(item, Document):
            writer.add(item)
        else:
            writer.add_error(item)
