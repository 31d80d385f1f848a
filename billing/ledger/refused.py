"""Records that the books themselves refused at a close (books.lua): moved to where an operator sees them."""

import logging
from typing import Any

import redis
from psycopg2.extensions import connection as Connection

from billing.ledger import writing
from billing.ledger.records import Origin, Refused

log = logging.getLogger(__name__)

STREAM = "journal:quarantine"
"""Each entry has the fields `call`, `reason` and `r`, the record or, where there was none, the open entry."""
BATCH = 500


def move_refused(connection: Connection, state: redis.Redis) -> int:
    """Move what lies in STREAM to the quarantine table, each once; how many. As the drain does: position, commit, trim."""
    position = writing.read_position(connection, STREAM)
    entries: Any = state.xrange(STREAM, min=f"({position}", count=BATCH)  # redis-py cannot tell that these are bytes
    if not entries:
        return 0
    bad = [_refused(stream_id.decode(), fields) for stream_id, fields in entries]
    last = bad[-1][0].stream_id
    try:
        with connection, connection.cursor() as cursor:
            writing.move_position(cursor, STREAM, position, last)
            writing.quarantine(cursor, STREAM, bad)
    except writing.PositionTaken:
        return 0
    for record, reason in bad:
        log.error("the books refused a record", extra={"stream_id": record.stream_id, "reason": reason})
    milliseconds, _, sequence = last.partition("-")
    state.xtrim(STREAM, minid=f"{milliseconds}-{int(sequence) + 1}", approximate=False)
    return len(bad)


def _refused(stream_id: str, fields: dict[bytes, bytes]) -> Refused:
    call, reason = (fields.get(name, b"").decode(errors="replace") for name in (b"call", b"reason"))
    return Origin(stream_id, 0, fields.get(b"r", b"")), f"{call}: {reason}".replace("\x00", "")
