"""What a document and a model are called where people look, and back.

Knows names. Must not know any labelling tool.
"""

from __future__ import annotations

import hashlib

from pipeline.sinks import Delivered

_LONGEST = 200


def key_of(row: Delivered) -> str:
    """16 hexadecimal digits for a document with its text: one that is pushed again has the same, one whose text has changed
    another."""
    said = f"{row.document_id}\0{row.text}\0{row.text_pair or ''}"
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def model_version(row: Delivered) -> str:
    """The model with its revision, as both tools show it; Argilla takes letters, digits and `-_:./` alone, 200 at most. Of
    what is longer the id loses its end: answers are told apart by the revision."""
    return f"{row.model_id[: _LONGEST - 1 - len(row.model_revision)]}:{row.model_revision}"


def revision_of(version: str) -> str | None:
    """The revision in a model version, which may hold colons, as an id never does; None where it is no version of ours."""
    model, colon, revision = version.partition(":")
    return revision if model and colon else None
