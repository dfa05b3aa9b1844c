"""What a document and a model are called where people look, and back.

Knows names. Must not know any labelling tool.
"""

from __future__ import annotations

import hashlib

from pipeline.sinks import Delivered


def key_of(row: Delivered) -> str:
    """16 hexadecimal digits for a document with its text: one that is pushed again has the same, one whose text has changed
    another."""
    said = f"{row.document_id}\0{row.text}\0{row.text_pair or ''}"
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def model_version(row: Delivered) -> str:
    """The model with its revision, as both tools show it; Argilla takes letters, digits and `-_:./` alone, 200 at most."""
    return f"{row.model_id}:{row.model_revision}"[:200]


def revision_of(version: str) -> str:
    """The revision in a model version."""
    return version.rpartition(":")[2]
