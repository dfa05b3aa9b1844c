"""Corpora: formats in, the document store on disk, exports out.

Knows files, formats and their limits. Must not know databases, HTTP, models or metrics: bytes and documents pass
through here, and what they mean to a job is decided elsewhere.
"""

from corpora.formats import Encoding, Format, Upload, upload_of
from corpora.intake import ingest, store_items
from corpora.options import Limits, Options
from corpora.readers import read
from corpora.records import documents_of
from corpora.store import Store
from corpora.store_writer import StoreWriter, remove_partials, remove_store
from corpora.summary import IngestSummary

__all__ = [
    "Encoding",
    "Format",
    "IngestSummary",
    "Limits",
    "Options",
    "Store",
    "StoreWriter",
    "Upload",
    "documents_of",
    "ingest",
    "read",
    "remove_partials",
    "remove_store",
    "store_items",
    "upload_of",
]
