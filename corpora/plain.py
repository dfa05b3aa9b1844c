"""Plain text: a document a line, or, inside an archive, a document a file.

Knows lines and UTF-8. Must not know fields: plain text has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from corpora.jsonl import bad_encoding, too_long
from corpora.lines import BOM, Overlong, lines
from corpora.options import Options
from corpora.records import fault
from corpora.streams import BLOCK, Reads
from corpora.values import REPLACEMENT
from corpusmill.documents import Document, IngestError
from corpusmill.errors import FieldFault, InvalidRequest


def read_text(source: Reads, options: Options, start: int = 0) -> Iterator[Document | IngestError]:
    """A document a line, empty lines included, so that positions stay those of the file; line ends are left out."""
    _refuse_pairs(options)
    limit = options.limits.max_document_bytes
    position = start
    for number, line in enumerate(lines(source, limit), 1):
        if isinstance(line, Overlong):
            item: Document | IngestError = too_long(number, limit)
        else:
            item = _document(line.removesuffix(b"\r"), number, position, {})
        if isinstance(item, Document):
            position += 1
        yield item


def read_whole(source: Reads, name: str, options: Options, position: int) -> Document | IngestError:
    """The whole of a stream as one document, whose field `file` is `name`."""
    _refuse_pairs(options)
    limit = options.limits.max_document_bytes
    pieces: list[bytes] = []
    size = 0
    while piece := source.read(BLOCK):
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        else:
            # Read to the end all the same: what follows in the archive is checked and counted from there.
            pieces.clear()
    if size > limit:
        return too_long(1, limit)
    return _document(b"".join(pieces).removeprefix(BOM), 1, position, {"file": name})


def _document(raw: bytes, number: int, position: int, fields: Mapping[str, Any]) -> Document | IngestError:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if fields:
            return fault(
                number, "bad_encoding", f"The file is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}."
            )
        return bad_encoding(number, raw, error)
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    return Document(position=position, id=str(position), text=text, fields=fields)


def _refuse_pairs(options: Options) -> None:
    if options.text_pair_field is not None:
        message = "Plain text has no fields, and so no text pairs: send JSON lines, CSV, TSV or Parquet."
        raise InvalidRequest(message, FieldFault("text_pair_field", "Plain text has no fields."))
