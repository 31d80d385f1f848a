"""The journal as its readers see it: a stream whose entries hold packed usage records, each in a field named `r`."""

from typing import Any

import redis

from inference.books.scripts import JOURNAL, TRIM, TRIMMED

Entry = tuple[str, list[bytes]]
"""(stream id, packed records)"""


def read(state: redis.Redis, after: str, count: int) -> list[Entry]:
    """Up to `count` entries after the position `after` (`0-0`: from the beginning)."""
    state.set_response_callback("XRANGE", _as_it_is)  # redis-py's own makes a dict, and all fields have one name
    reply: Any = state.xrange(JOURNAL, f"({after}", "+", count)
    return [(stream_id.decode(), fields[1::2]) for stream_id, fields in reply]


def _as_it_is(reply: Any, **options: Any) -> Any:
    return reply


def trim(state: redis.Redis, position: str) -> int:
    """Remove what the ledger holds, all up to `position`, and note it for rebuilds. Returns how many entries that were."""
    return int(TRIM.run_sync(state, [JOURNAL, TRIMMED], [position]))
