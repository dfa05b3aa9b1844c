"""Lines out of bytes, of bounded length whatever the bytes.

Knows line ends and the byte order mark. Must not know what the lines mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corpora.streams import BLOCK, Reads

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line longer than the limit, which was not kept; `quotes` counts its quotation marks."""

    quotes: int


Line = bytes | Overlong


def lines(source: Reads, limit: int) -> Iterator[Line]:
    """Lines that end in LF, without it; one longer than `limit` bytes is passed over and said to be Overlong.

    A byte order mark at the start is left out. What follows the last LF is a line where it is not empty.
    """
    return _assembled(_blocks(source), _cut_at_lf, limit)


def universal_lines(source: Reads, limit: int) -> Iterator[Line]:
    """Like `lines`, but lines end in LF, CR LF or CR, and keep their ends."""
    return _assembled(_unsplit(_blocks(source)), _cut_at_any, limit)


def _blocks(source: Reads) -> Iterator[bytes]:
    """Full blocks (the last may be shorter), so that a long line is held in few pieces."""
    start = True
    while True:
        pieces = []
        missing = BLOCK
        while missing and (piece := source.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if start:
            block, start = block.removeprefix(BOM), False
        if block:
            yield block
        if missing:
            return


def _unsplit(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that do not end between a CR and its LF."""
    held = b""
    for block in blocks:
        whole = held + block
        held = b"\r" if whole.endswith(b"\r") else b""
        if len(whole) > len(held):
            yield whole[: len(whole) - len(held)]
    if held:
        yield held


def _cut_at_lf(block: bytes) -> tuple[list[bytes], bytes]:
    *whole, rest = block.split(b"\n")
    return whole, rest


def _cut_at_any(block: bytes) -> tuple[list[bytes], bytes]:
    whole = block.splitlines(keepends=True)
    rest = whole.pop() if not whole[-1].endswith((b"\n", b"\r")) else b""
    return whole, rest


def _assembled(
    blocks: Iterator[bytes], cut: Callable[[bytes], tuple[list[bytes], bytes]], limit: int
) -> Iterator[Line]:
    """Lines put together across blocks. Holds at most `limit` bytes and a block."""
    held: list[bytes] = []
    size = quotes = 0
    for block in blocks:
        whole, rest = cut(block)
        if whole and size:
            yield _line([*held, whole[0]], size + len(whole[0]), quotes + whole[0].count(b'"'), limit)
            whole = whole[1:]
            held, size, quotes = [], 0, 0
        if len(block) <= limit:
            yield from whole
        else:
            for line in whole:
                yield line if len(line) <= limit else Overlong(line.count(b'"'))
        if rest:
            size += len(rest)
            quotes += rest.count(b'"')
            held = [*held, rest] if size <= limit else []
    if size:
        yield _line(held, size, quotes, limit)


def _line(pieces: list[bytes], size: int, quotes: int, limit: int) -> Line:
    return b"".join(pieces) if size <= limit else Overlong(quotes)
