"""Ids that callers see: a prefix that names the kind, then the time and chance, so that newer ids sort after older ones.

Knows nothing but the clock and the system's random source.
"""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """`prefix_` and 26 characters: 48 bits of milliseconds and 80 random bits (the layout of a ULID)."""
    number = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
