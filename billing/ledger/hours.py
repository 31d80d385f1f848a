"""The roll-up: adds what the drain has written to the hours that pages read, in steps of its own behind the drain.

The drain numbers its batches and each row bears its batch's number, so "what came since" is a range of an index. A step adds
up that range in PostgreSQL and moves the roll-up's own position by compare-and-set in the same transaction: any number of
roll-ups, one wins, none counts twice. The more rows share an hour, the less each costs: so after a step that changed many hours
the next waits the longer. Pages are a second behind, and up to a minute while a million hours change in it.
"""

import logging
import time
from collections.abc import Callable

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from billing.ledger.writing import Link
from inference.books.scripts import JOURNAL

log = logging.getLogger(__name__)

REST = 1 / 20_000  # seconds for each hour that a step has changed
REST_MOST = 60.0

PENDING = """
SELECT p.batch, p.position, r.batch FROM journal_position p JOIN usage_rollup r USING (stream)
WHERE stream = %s AND p.batch > r.batch
"""
BEGIN = """
INSERT INTO usage_rollup (stream, batch, position)
SELECT stream, batch >> 40 << 40, '0-0' FROM journal_position WHERE stream = %s
ON CONFLICT DO NOTHING
"""
MOVE = "UPDATE usage_rollup SET batch = %s, position = %s WHERE stream = %s AND batch = %s"
ADD = """
INSERT INTO usage_hour AS h (tenant_id, hour, api_key_id, model_id, version_id, mode, currency, model_name, version_number,
  calls, reversed, rows, bytes_in, bytes_out, queue_us, compute_us, total_ms, amount_nano)
SELECT tenant_id, date_trunc('hour', opened_at), api_key_id, model_id, version_id, mode, currency, max(model_name),
  max(version_number), sum(n), count(*) - sum(n), sum(n * rows), sum(n * bytes_in), sum(n * bytes_out), sum(n * queue_us),
  sum(n * compute_us), sum(n * greatest(0, (date_part('epoch', closed_at - opened_at) * 1000)::bigint)), sum(amount_nano)
FROM (SELECT *, (kind = 'usage')::int AS n FROM usage_event WHERE batch > %s AND batch <= %s AND batch > 0) AS came
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (tenant_id, hour, api_key_id, model_id, version_id, mode, currency) DO UPDATE SET
  model_name = excluded.model_name, version_number = excluded.version_number, calls = h.calls + excluded.calls,
  reversed = h.reversed + excluded.reversed, rows = h.rows + excluded.rows, bytes_in = h.bytes_in + excluded.bytes_in,
  bytes_out = h.bytes_out + excluded.bytes_out, queue_us = h.queue_us + excluded.queue_us,
  compute_us = h.compute_us + excluded.compute_us, total_ms = h.total_ms + excluded.total_ms,
  amount_nano = h.amount_nano + excluded.amount_nano
"""


class RollUp:
    """One roll-up. Call `step` every second or so: it does nothing while it rests. `clock` is for benchmarks."""

    def __init__(self, *, stream: str = JOURNAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.link, self._clock = stream, Link(), clock
        self._rest_until = 0.0

    def step(self) -> bool:
        """Add up what came since, unless it is resting; whether any hour changed. Raises psycopg2.Error: call again."""
        if self._clock() < self._rest_until:
            return False
        changed = catch_up(self.link(), self.stream)
        self._rest_until = self._clock() + min(REST_MOST, REST * changed)
        return changed > 0

    def close(self) -> None:
        self.link.close()


def catch_up(connection: Connection, stream: str) -> int:
    """Bring the hours up to where the drain is now; how many changed. 0: they are there, or another roll-up was first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(BEGIN, [stream])
        cursor.execute(PENDING, [stream])
        pending = cursor.fetchone()
        return _add(cursor, stream, *pending) if pending else 0


def _add(cursor: Cursor, stream: str, new: int, position: str, old: int) -> int:
    cursor.execute(MOVE, [new, position, stream, old])
    if cursor.rowcount != 1:
        return 0
    cursor.execute("SET LOCAL work_mem = '64MB'; SET LOCAL statement_timeout = 0")
    cursor.execute(ADD, [old, new])
    return int(cursor.rowcount)
