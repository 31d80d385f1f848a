"""Identifiers: UUIDv7 inside, shown with a prefix that tells the kind (`org_0198…`); and those of requests."""

import os
import random
import re
import threading
import time
from uuid import UUID

_pool: list[bytes] = []  # random parts made ahead: one system call serves 400 ids
os.register_at_fork(after_in_child=_pool.clear)  # or parent and child would give out the same

# W3C Trace Context: version, trace id, parent id, flags; neither id may be all zeros
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?").fullmatch
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@~-]{1,128}").fullmatch
bits = random.getrandbits  # ids of requests need no secrecy, and the module seeds itself anew after a fork


def request_id(given: bytes | None) -> str:
    """The caller's X-Request-Id if it is one, else a new one."""
    return given.decode() if given and _REQUEST_ID(given) else f"{bits(128):032x}"


def trace(given: bytes | None) -> tuple[str, str]:
    """(trace id, traceparent to return): the caller's trace, or a new one, with a span of ours."""
    match = _TRACEPARENT(given) if given else None
    if match is None:
        trace_id = f"{bits(128):032x}"
        return trace_id, f"00-{trace_id}-{bits(64):016x}-00"
    trace_id = match[1].decode()
    return trace_id, f"00-{trace_id}-{bits(64):016x}-{match[2].decode()}"


def _random_part() -> bytes:
    """10 random bytes. `pop` and `extend` are atomic, so no two threads get the same."""
    try:
        return _pool.pop()
    except IndexError:
        fresh = os.urandom(4000)
        _pool.extend(fresh[at : at + 10] for at in range(10, 4000, 10))
        return fresh[:10]


class _Newest:
    """The newest id of now that this process gave out: each is greater, whatever thread asks and wherever the clock steps.

    RFC 9562, section 6.2, method 2: within a millisecond, or after a step back, the next one is the last plus a random amount.
    """

    def __init__(self) -> None:
        self._packed, self._lock = 0, threading.Lock()  # 48 bits of time, 74 random ones

    def next(self) -> int:
        """48 bits of time and 74 others, as one number."""
        random = int.from_bytes(_random_part()) >> 6
        fresh = (time.time_ns() // 1_000_000) << 74 | random
        with self._lock:
            if fresh <= self._packed:
                fresh = self._packed + 1 + (random & 0xFFFF_FFFF)  # a carry into the time is allowed there
            self._packed = fresh
        return fresh

    def anew(self) -> None:
        """In a forked child: whoever held the lock is not there, and random parts keep its ids from its parent's."""
        self._lock = threading.Lock()


_newest = _Newest()
os.register_at_fork(after_in_child=_newest.anew)


def uuid7(at_ms: int | None = None) -> UUID:
    """A time-ordered UUID (RFC 9562, section 5.7) for `at_ms`, milliseconds since the epoch.

    Without it: for now, and greater than each one that this process made so before.
    """
    if at_ms is not None:
        return UUID(int=_number7(at_ms))
    packed = _newest.next()
    return UUID(int=_laid_out(packed >> 74, packed >> 62 & 0xFFF, packed & ((1 << 62) - 1)))


def uuid7_hex(at_ms: int) -> str:
    """The same as 32 hexadecimal digits, for where a UUID's own construction would cost as much again."""
    return f"{_number7(at_ms):032x}"


def _number7(at_ms: int) -> int:
    random = int.from_bytes(_random_part())
    return _laid_out(at_ms & ((1 << 48) - 1), random >> 68, random & ((1 << 62) - 1))


def _laid_out(at_ms: int, high: int, low: int) -> int:
    """RFC 9562, section 5.7: 48 bits of time, the version, 12 bits, the variant, 62 bits."""
    return at_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low


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
