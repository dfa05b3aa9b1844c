"""What a caller may say about an upload, and how much of it is let in.

Knows names and numbers. Must not know formats or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is read, in bytes; the defaults are those of the settings of the same names.

    `max_upload_bytes` counts decoded bytes. `max_document_bytes` bounds a line, a record and a document.
    `max_expansion` is the ratio of decoded to received bytes, judged after the first 10 MiB. `parquet_seconds` is no size:
    it bounds the processor time of the child that reads a Parquet file.
    """

    max_upload_bytes: int = 16 << 30
    max_document_bytes: int = 16 << 20
    max_expansion: int = 200
    parquet_seconds: int = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which fields of an upload play which part.

    The parts are given out in the order text, text pair, id, reference: a name that already plays one does not play
    another. Every other field is kept as it is.
    """

    text_field: str = "text"
    text_pair_field: str | None = None
    id_field: str = "id"
    reference_field: str = "reference"
    limits: Limits = field(default_factory=Limits)
