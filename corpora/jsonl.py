"""JSON lines: one object a line.

Knows JSON's grammar and how its parser can be strained. Must not know compression or the store.
Where an object names a field twice, the last one counts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from corpora.lines import Overlong, lines
from corpora.options import Options
from corpora.records import document_of, fault
from corpora.streams import Reads
from corpora.values import Refused, clean, kind_of
from corpusmill.documents import Document, IngestError

T = TypeVar("T")

#: The most values in one line. Parsed, the smallest values take some twenty times their bytes in the line.
MAX_VALUES = 1 << 20
#: A string, with an unclosed one reaching to the end; possessive, so that it is scanned once whatever it holds.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
_ARRAY = " A JSON array is not JSON Lines: put each of its objects on a line of its own (`jq -c '.[]'` does)."
#: Escapes that may stand for a NUL or for half a surrogate pair.
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def _no_constant(name: str) -> NoReturn:
    raise Refused("invalid_json", f"{name} is not JSON; use null or a number.")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Refused("invalid_json", f"The number {digits[:40]} is too large to be kept.")
    return number


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def read_jsonl(source: Reads, options: Options, start: int = 0) -> Iterator[Document | IngestError]:
    """Documents and errors in the order of their lines; positions count from `start`. Blank lines are passed over."""
    limit = options.limits.max_document_bytes
    position = start
    for number, line in enumerate(lines(source, limit), 1):
        if type(line) is Overlong:
            yield too_long(number, limit)
            continue
        item = parse_line(line, number, position, options)  # type: ignore[arg-type]
        if item is None:
            continue
        if type(item) is Document:
            position += 1
        yield item


def parse_line(line: bytes, number: int, position: int, options: Options) -> Document | IngestError | None:
    """The document in a line, or why there is none; None for a blank line. Raises nothing."""
    return parsed(line, number, lambda record: document_of(record, position, number, options))


def parsed(line: bytes, number: int, made: Callable[[dict[str, Any]], T]) -> T | IngestError | None:
    """What is made of the clean object in a line, or why there is none; None for a blank line. Raises nothing but what
    `made` does, whose Refused becomes an error."""
    try:
        record = _record(line)
        return None if record is None else made(record)
    except UnicodeDecodeError as error:
        return bad_encoding(number, line, error)
    except json.JSONDecodeError as error:
        message = f"{error.msg} at character {error.pos + 1}.{_ARRAY if line.lstrip().startswith(b'[') else ''}"
        return fault(number, "invalid_json", message, str(error.pos + 1))
    except Refused as refused:
        return fault(number, refused.code, str(refused), refused.column)
    except RecursionError:
        return fault(number, "invalid_json", "Values are nested too deeply.")
    except ValueError:
        # The interpreter's own guard against quadratic conversion; json lets its ValueError through.
        return fault(number, "invalid_json", f"A number has more than {sys.get_int_max_str_digits()} digits.")


def _record(line: bytes) -> dict[str, Any] | None:
    """The object in a line, cleaned; None for a blank line."""
    text = line.decode()
    if len(line) > MAX_VALUES and _values(line) > MAX_VALUES:
        raise Refused("too_long", f"The line holds more than {MAX_VALUES} values.")
    value = _parsed(text)
    if type(value) is dict:
        return clean(value) if _SUSPECT.search(line) else value
    if value is None and not text.strip():
        return None
    hint = _ARRAY if isinstance(value, list) else ""
    raise Refused("wrong_type", f"A line must hold an object, not {kind_of(value)}.{hint}")


def _parsed(text: str) -> Any:
    """The value in a line, or None for a blank one; the quick way where nothing but white space follows the value."""
    try:
        value, end = _DECODER.raw_decode(text)
        if end == len(text) or not text[end:].strip(" \t\r\n"):
            return value
    except json.JSONDecodeError:
        if not text.strip(" \t\r\n"):
            return None
    return _DECODER.decode(text)


def _values(line: bytes) -> int:
    """How many values a line holds, at most: separators and openings, counted outside strings where it matters."""
    count = line.count(b",") + line.count(b"[") + line.count(b"{")
    if count <= MAX_VALUES:
        return count
    bare = _STRING.sub(b"", line)
    return bare.count(b",") + bare.count(b"[") + bare.count(b"{")


def too_long(number: int, limit: int) -> IngestError:
    """The error for a line, record or row that exceeds the limit."""
    return fault(
        number, "too_long", f"It is longer than {limit} bytes (CORPUSMILL_MAX_DOCUMENT_BYTES); split the text."
    )


def bad_encoding(number: int, line: bytes, error: UnicodeDecodeError, column: str | None = None) -> IngestError:
    """The error for a line that is not UTF-8; `column` is the character up to which it is, where no name is given."""
    character = len(line[: error.start].decode()) + 1
    hint = " The file looks like UTF-16; save it as UTF-8." if line.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
    message = f"Character {character} is not UTF-8: byte 0x{line[error.start]:02x}.{hint}"
    return fault(number, "bad_encoding", message, column or str(character))
