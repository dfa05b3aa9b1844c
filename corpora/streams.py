"""Bytes in, whatever their compression, counted against the limits.

Knows gzip and zstd. Must not know what the bytes mean.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

import zstandard

from corpora.disk import full_disk_refused
from corpora.formats import Encoding
from corpora.options import Limits
from corpusmill.errors import InvalidRequest, TooLarge

BLOCK = 256 << 10
#: Ratios are judged only after this many decoded bytes: small files of one repeated line are harmless.
JUDGED_AFTER = 10 << 20
#: The largest window a zstd frame may ask for, and so the memory of its decoder: `zstd -20`.
_ZSTD_WINDOW = 32 << 20
#: zstd gives out at most 128 KiB for each 4 bytes, and all of what it is given at once: 16 MiB for a piece.
_ZSTD_PIECE = 512


class Reads(Protocol):
    """Anything that gives up to `size` bytes, and none at its end."""

    def read(self, size: int, /) -> bytes: ...


class Budget:
    """Counts decoded bytes, over all members of an archive, against the limits.

    `received` says how many bytes of the upload they were decoded from; `spent` have been counted before.
    """

    def __init__(self, limits: Limits, received: Callable[[], int], spent: int = 0) -> None:
        self.limits = limits
        self.received = received
        self.spent = spent

    def spend(self, size: int) -> None:
        """Count `size` more bytes. Raises TooLarge beyond the upload limit or the expansion limit."""
        self.spent += size
        if self.spent > self.limits.max_upload_bytes:
            raise TooLarge(
                f"The upload holds more than {self.limits.max_upload_bytes} bytes once decoded "
                "(CORPUSMILL_MAX_UPLOAD_BYTES). Send it as several corpora."
            )
        if self.spent > JUDGED_AFTER and self.spent > self.received() * self.limits.max_expansion:
            raise TooLarge(
                f"The upload expands to more than {self.limits.max_expansion} times its size "
                "(CORPUSMILL_MAX_EXPANSION). Send it less compressed."
            )


class Counted:
    """A stream that knows how many bytes it has given."""

    def __init__(self, source: Reads) -> None:
        self._source = source
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.given += len(data)
        return data


class Metered:
    """A stream whose bytes are spent from a budget as they are read."""

    def __init__(self, source: Reads, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.spend(len(data))
        return data


class _Gunzipped:
    def __init__(self, source: Counted) -> None:
        self._file = gzip.GzipFile(fileobj=cast(IO[bytes], source), mode="rb")

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidRequest(f"The gzip stream is damaged or cut short: {error}. Send it again.") from error


class _Unzstd:
    """Frame after frame, in small pieces: python-zstandard's own reader does not tell a frame cut short from an end."""

    def __init__(self, source: Counted) -> None:
        self._source = source
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._waiting = b""
        self._ready = b""

    def read(self, size: int, /) -> bytes:
        try:
            while not self._ready and self._decode():
                pass
        except zstandard.ZstdError as error:
            raise InvalidRequest(
                f"The zstd stream cannot be decoded: {error}. It must be whole, and packed without --long or --ultra."
            ) from error
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _decode(self) -> bool:
        piece = self._waiting or self._source.read(_ZSTD_PIECE)
        if not piece:
            if self._frame is not None:
                raise InvalidRequest("The zstd stream is cut short. Send it again.")
            return False
        if self._frame is None:
            self._frame = self._decoder.decompressobj()
        self._ready = self._frame.decompress(piece)
        self._waiting = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return True


def decoded(source: Counted, encoding: Encoding | None) -> Reads:
    """The bytes behind an encoding. Reading raises InvalidRequest where they are damaged or cut short."""
    if encoding is Encoding.GZIP:
        return _Gunzipped(source)
    return _Unzstd(source) if encoding is Encoding.ZSTD else source


def spooled(source: Reads, directory: Path | None) -> IO[bytes]:
    """What is left of a stream in a nameless temporary file, for formats that are read from their end.

    The caller closes it. Raises StorageFull.
    """
    file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - the caller closes it
    try:
        with full_disk_refused():
            while block := source.read(BLOCK):
                file.write(block)
            file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
