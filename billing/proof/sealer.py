"""The job that seals hours once nothing of them can come any more. Any number may run: of two, one seals.

Once an hour, as the clock passes it: end the hours before in the journal and see that the ledger has all of them
(end_hours.lua); collect from the rows that were drained since which organization had calls in which hour (`seal_due`); seal
those, one organization and hour in a transaction; say up to when all is sealed (`seal_progress`). Killed anywhere, the next
one goes on.
"""

import logging
from datetime import datetime
from uuid import UUID

import redis
from psycopg2.extensions import connection as Connection

from billing.ledger.writing import Link
from billing.models import SealProgress
from billing.proof.receipts import milliseconds
from billing.proof.seals import Seal, seal_hour
from inference.books.scripts import END_HOURS, JOURNAL
from saas.lib import clock

log = logging.getLogger(__name__)

BATCHES = 50  # of the drain that one transaction collects from, 40,000 rows in each at most
LOCKS = 7_301  # the class of our advisory locks: one for each organization's chain

BEGIN = """
INSERT INTO seal_progress (stream, batch, hour)
SELECT stream, batch >> 40 << 40, to_timestamp(0) FROM journal_position WHERE stream = %s ON CONFLICT DO NOTHING
"""
READ = """
SELECT p.position, p.batch, s.batch, s.hour FROM journal_position p JOIN seal_progress s USING (stream) WHERE stream = %s
"""
MOVE = "UPDATE seal_progress SET batch = %s WHERE stream = %s AND batch = %s"
COLLECT = """
INSERT INTO seal_due AS d (stream, tenant_id, hour, first_call, last_call)
SELECT %s, tenant_id, to_timestamp(split_part(stream_id, '-', 1)::bigint / 3600000 * 3600),
  min(call_id::text COLLATE "C")::uuid, max(call_id::text COLLATE "C")::uuid
FROM usage_event WHERE batch > %s AND batch <= %s AND batch > 0 GROUP BY 2, 3 ORDER BY 2, 3
ON CONFLICT (stream, hour, tenant_id) DO UPDATE SET
  first_call = least(d.first_call, excluded.first_call), last_call = greatest(d.last_call, excluded.last_call)
"""
# The lock is the organization's: its hours are sealed one after the other, and others at the same time.
TAKE = """
WITH due AS MATERIALIZED (
  SELECT tenant_id, hour FROM seal_due WHERE stream = %s AND hour < %s ORDER BY hour, tenant_id LIMIT 1000
)
SELECT tenant_id, hour FROM due WHERE pg_try_advisory_xact_lock(%s, hashtext(tenant_id::text)) LIMIT 1
"""
TAKEN = "SELECT first_call, last_call FROM seal_due WHERE stream = %s AND tenant_id = %s AND hour = %s FOR UPDATE"
DONE = """
UPDATE seal_progress SET hour = %(until)s WHERE stream = %(stream)s AND hour < %(until)s AND batch >= %(batch)s
AND NOT EXISTS (SELECT FROM seal_due WHERE stream = %(stream)s AND hour < %(until)s)
"""


class Sealer:
    """Call `step` every second or so: between two full hours it only looks at the clock."""

    def __init__(self, state: redis.Redis, *, stream: str = JOURNAL) -> None:
        self.state, self.stream, self.link = state, stream, Link()
        self._sealed_until: datetime | None = None

    def step(self) -> bool:
        """Seal something; whether there may be more. Raises psycopg2.Error, redis.RedisError: call again."""
        until = clock.now().replace(minute=0, second=0, microsecond=0)
        if self._sealed_until is not None and self._sealed_until >= until:
            return False
        connection = self.link()
        position, drained, collected, sealed_until = _read(connection, self.stream)
        if sealed_until is None or sealed_until >= until:
            self._sealed_until = sealed_until
            return False
        if not END_HOURS.run_sync(self.state, [self.stream], [milliseconds(until), position]):
            return False  # the drain is behind, or nothing was ever journaled
        if collected < drained:
            collect(connection, self.stream, collected, min(drained, collected + BATCHES))
            return True
        return self._seal(connection, until, drained)

    def close(self) -> None:
        self.link.close()

    def _seal(self, connection: Connection, until: datetime, drained: int) -> bool:
        if seal_one(connection, self.stream, until) is not None:
            return True
        with connection, connection.cursor() as cursor:
            cursor.execute(DONE, {"until": until, "stream": self.stream, "batch": drained})
        return False


def sealed_until(stream: str = JOURNAL) -> datetime | None:
    """All hours before this are sealed; None before the first."""
    found: datetime | None = SealProgress.objects.filter(stream=stream).values_list("hour", flat=True).first()
    return found


def _read(connection: Connection, stream: str) -> tuple[str, int, int, datetime | None]:
    """(position of the drain, its batch, batch up to which rows are collected, up to when all is sealed)."""
    with connection, connection.cursor() as cursor:
        cursor.execute(BEGIN, [stream])
        cursor.execute(READ, [stream])
        return cursor.fetchone() or ("0-0", 0, 0, None)


def collect(connection: Connection, stream: str, old: int, new: int) -> bool:
    """Note which hours the batches after `old` up to `new` have rows of; False if another sealer was first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(MOVE, [new, stream, old])
        if cursor.rowcount != 1:
            return False
        cursor.execute("SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '64MB'")
        cursor.execute(COLLECT, [stream, old, new])
    return True


def seal_one(connection: Connection, stream: str, until: datetime) -> Seal | UUID | None:
    """Seal the oldest due hour before `until` of an organization that nobody else seals for: the seal, or None if none is left.

    An hour without rows that need one gives only the organization's id.
    """
    with connection:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
            cursor.execute(TAKE, [stream, until, LOCKS])
            taken = cursor.fetchone()
            if taken is None:
                return None
            tenant, hour = UUID(str(taken[0])), taken[1]
            cursor.execute(TAKEN, [stream, str(tenant), hour])
            calls = cursor.fetchone()
            if calls is None:  # sealed by another between the two statements
                return tenant
            cursor.execute("SELECT batch FROM seal_progress WHERE stream = %s", [stream])  # a collector waits for that row
            [batch] = cursor.fetchone() or (0,)
        seal = seal_hour(connection, tenant, hour, UUID(str(calls[0])), UUID(str(calls[1])), batch)
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM seal_due WHERE stream = %s AND tenant_id = %s AND hour = %s", [stream, str(tenant), hour]
            )
    return seal or tenant
