"""Answers that clients have not read whole: they stay in a gateway's memory, so their bytes and their time are bounded."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

STALLED_SECONDS = 30.0  # until a client must have read MIN_RATE on average
MIN_RATE = 16 << 10  # bytes per second
MAX_BYTES = 256 << 20  # of unread answers in one process
FRESH_SECONDS = 2.0  # in which a client's pace is not known


class Unread:
    """What one client has not read. `since`: the loop time at which it fell behind, 0 if it has not."""

    __slots__ = ("_first", "_transport", "since", "written")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self.since = 0.0
        self.written = 0  # bytes of the latest write, all of which are kept until the last of them has left
        self._first = 0  # bytes that waited at `since`

    def begin(self, now: float) -> None:
        self.since, self._first = now, self._waiting

    def end(self) -> None:
        self.since = 0.0

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return max(self.written, self._waiting)

    @property
    def _waiting(self) -> int:
        return self._transport.get_write_buffer_size()

    def _rate(self, now: float) -> float:
        return max(self._first - self._waiting, 0) / (now - self.since)

    def is_too_slow(self, now: float) -> bool:
        return now - self.since > STALLED_SECONDS and self._rate(now) < MIN_RATE

    def seconds_left(self, now: float) -> float:
        """Until it is read, at the pace so far."""
        return self._waiting / max(self._rate(now), 1.0)


class Connection(Protocol):
    """What is used of saas.protocol.FrontProtocol."""

    unread: Unread

    def drop(self) -> None: ...


def drop_slowest(connections: Iterable[Connection], now: float) -> None:
    """Where all clients together are too far behind, close those that would take longest until they are not."""
    behind = [connection for connection in connections if connection.unread.since]
    held = sum(connection.unread.size for connection in behind)
    if held <= MAX_BYTES:
        return
    known = [connection for connection in behind if now - connection.unread.since > FRESH_SECONDS]
    for connection in sorted(known, key=lambda found: found.unread.seconds_left(now), reverse=True):
        held -= connection.unread.size
        connection.drop()
        if held <= MAX_BYTES:
            return
