"""Corpora: formats in, the document store on disk, exports out.

Knows files, formats and their limits. Must not know databases, HTTP, models or metrics: bytes and documents pass
through here, and what they mean to a job is decided elsewhere.
"""

from corpora.formats import Encoding, Format, Upload, upload_of
from corpora.intake import ingest, store_items
from corpora.options import Limits, Options
from corpora.parquet_child import ReaderKilled
from corpora.readers import read
from corpora.records import documents_of
from corpora.reference_intake import merged, resolve
from corpora.references import References, remove_other_references, remove_references, write_references
from corpora.store import Store
from corpora.store_writer import StoreWriter, remove_partials, remove_store
from corpora.summary import IngestSummary

__all__ = [
    "Encoding",
    "Format",
    "IngestSummary",
    "Limits",
    "Options",
    "ReaderKilled",
    "References",
    "Store",
    "StoreWriter",
    "Upload",
    "documents_of",
    "ingest",
    "merged",
    "read",
    "remove_other_references",
    "remove_partials",
    "remove_references",
    "remove_store",
    "resolve",
    "store_items",
    "upload_of",
    "write_references",
]
