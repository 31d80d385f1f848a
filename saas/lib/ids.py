"""Identifiers: UUIDv7 inside, shown with a prefix that tells the kind (`org_0198…`)."""

import os
import time
from uuid import UUID


def uuid7(at_ms: int | None = None) -> UUID:
    """A time-ordered UUID (RFC 9562, section 5.7) for `at_ms`, milliseconds since the epoch; now if not given."""
    at_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    random = int.from_bytes(os.urandom(10))
    high, low = random >> 68, random & ((1 << 62) - 1)
    return UUID(int=(at_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def shown(prefix: str, value: UUID) -> str:
    """How an id is shown to people and clients: the prefix, an underscore, 32 hexadecimal digits."""
    return f"{prefix}_{value.hex}"


def parse_id(prefix: str, text: str) -> UUID | None:
    """The UUID behind a shown id; None if `text` is not one of that kind."""
    head, _, digits = text.rpartition("_")
    if head != prefix or len(digits) != 32:
        return None
    try:
        return UUID(hex=digits)
    except ValueError:
        return None
