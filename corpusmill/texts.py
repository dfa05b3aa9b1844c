"""What makes two texts the same.

Knows a hash. Must not know documents' ids, or what is done with texts.
"""

from __future__ import annotations

import hashlib

HASH_BYTES = 16


def text_hash(text: str, text_pair: str | None = None) -> bytes:
    """16 bytes that differ where the text or its pair does: BLAKE2b with a length before each part (RFC 7693)."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in (text, text_pair):
        # half a surrogate pair cannot be written as UTF-8 but may stand in a JSON line
        encoded = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update((-1 if part is None else len(encoded)).to_bytes(8, "big", signed=True))
        digest.update(encoded)
    return digest.digest()
