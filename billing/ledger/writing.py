"""The ledger's writing side: one batch of journal records becomes rows and sums, exactly once, in one transaction.

Everything here runs as the role `maas_metering`, on a psycopg2 connection of its own: a batch is one COPY and three statements.
"""

import datetime
import io
from collections.abc import Sequence
from typing import Any

import psycopg2
from django.db import connections
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from billing.ledger.records import COLUMNS, Batch, Refused, day_of

# COPY does not go into a table with row-level security, so the rows go over a temporary one.
INCOMING = """
CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
  day integer, call_id uuid, tenant_id uuid, api_key_id uuid, model_id uuid, version_id uuid, model_name text,
  version_number text, endpoint text, mode text, kind text, period text, price_version integer, currency text, rows bigint,
  bytes_in bigint, bytes_out bigint, queue_us bigint, compute_us bigint, amount_nano bigint, is_clamped boolean,
  request_id text, opened_ms bigint, closed_ms bigint, stream_id text, digests text
) ON COMMIT DELETE ROWS
"""
COPY = f"COPY pg_temp.incoming ({COLUMNS}) FROM STDIN"
EVENTS = """
INSERT INTO usage_event (day, call_id, tenant_id, api_key_id, model_id, version_id, model_name, version_number, endpoint, mode,
  kind, period, price_version, currency, rows, bytes_in, bytes_out, queue_us, compute_us, amount_nano, is_clamped, request_id,
  opened_at, closed_at, stream_id, digests, batch)
SELECT date '1970-01-01' + day, call_id, tenant_id, api_key_id, model_id, version_id, model_name, version_number, endpoint,
  mode, kind, period, price_version, currency, rows, bytes_in, bytes_out, queue_us, compute_us, amount_nano, is_clamped,
  request_id, to_timestamp(opened_ms / 1000::float8), to_timestamp(closed_ms / 1000::float8), stream_id, digests, %s
FROM pg_temp.incoming
"""
SUMS = """
INSERT INTO usage_month AS s (tenant_id, api_key_id, period, calls, amount_nano)
SELECT tenant_id, api_key_id, period, count(*), sum(amount_nano) FROM pg_temp.incoming
WHERE kind = 'usage' AND mode = 'live' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (tenant_id, api_key_id, period) DO UPDATE SET
  calls = s.calls + excluded.calls, amount_nano = s.amount_nano + excluded.amount_nano
"""


class PositionTaken(Exception):
    """Another drain moved the position first: this batch is not ours."""


def connect() -> Connection:
    """A connection as `maas_metering` whose commits are on disk when they return, and which never waits for ever."""
    connection: Connection = psycopg2.connect(**connections["metering"].get_connection_params())
    with connection.cursor() as cursor:
        cursor.execute(
            "SET TIME ZONE 'UTC'; SET synchronous_commit = on; SET statement_timeout = '30s'; SET lock_timeout = '10s'; "
            "SET idle_in_transaction_session_timeout = '30s'"
        )
        cursor.execute(INCOMING)
    connection.commit()
    return connection


class Link:
    """A connection that is made when it is needed, and made anew after `close`."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def __call__(self) -> Connection:
        self._connection = self._connection or connect()
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def read_position(connection: Connection, stream: str) -> str:
    """The id of the last entry of `stream` that the ledger holds; `0-0` at first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO journal_position (stream, position, updated_at) VALUES (%s, '0-0', now()) ON CONFLICT DO NOTHING",
            [stream],
        )
        cursor.execute("SELECT position FROM journal_position WHERE stream = %s", [stream])
        return str(_first(cursor))


def read_currencies(connection: Connection) -> dict[int, str]:
    """The currency of each price version."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT version, currency FROM price_version")
        return dict(cursor.fetchall())


def ensure_days(connection: Connection, days: Sequence[datetime.date]) -> None:
    """Make the partitions of `days` in a transaction of its own, before rows need them."""
    with connection, connection.cursor() as cursor:
        for day in days:
            cursor.execute("SELECT ensure_usage_partition(%s)", [day])


class Writer:
    """Writes batches over one connection, and remembers which days have a partition."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.days: set[int] = set()

    def write(self, batch: Batch, *, stream: str, old: str, new: str) -> list[Refused]:
        """Move `stream` from position `old` to `new` with the records of `batch`, or change nothing.

        What the table does not take goes into quarantine together with what could not be read at all; both are returned.
        Raises PositionTaken, or psycopg2's error: the transaction is then rolled back.
        """
        with self.connection, self.connection.cursor() as cursor:
            number = move_position(cursor, stream, old, new)
            bad = batch.refused + self._insert(cursor, batch, number, 0, len(batch.lines))
            if bad:
                quarantine(cursor, stream, bad)
        return bad

    def _insert(self, cursor: Cursor, batch: Batch, number: int, first: int, end: int) -> list[Refused]:
        """Insert a part of `batch`; in halves if a table refuses some, until the bad ones, which are returned, stand alone."""
        if first == end:
            return []
        cursor.execute("SAVEPOINT batch")
        try:
            self._copy(cursor, batch, number, first, end)
        except (psycopg2.DataError, psycopg2.IntegrityError) as error:
            cursor.execute("ROLLBACK TO SAVEPOINT batch")
            self.days.clear()
            if end - first == 1:
                return [(batch.origins[first], str(error).strip())]
            middle = (first + end) // 2
            return self._insert(cursor, batch, number, first, middle) + self._insert(cursor, batch, number, middle, end)
        cursor.execute("RELEASE SAVEPOINT batch")
        return []

    def _copy(self, cursor: Cursor, batch: Batch, number: int, first: int, end: int) -> None:
        is_whole = end - first == len(batch.lines)
        days = batch.days if is_whole else {int(line.partition("\t")[0]) for line in batch.lines[first:end]}
        for day in sorted(days - self.days):
            cursor.execute("SELECT ensure_usage_partition(%s)", [day_of(day)])
        if not is_whole:
            cursor.execute("TRUNCATE pg_temp.incoming")  # what an earlier part left
        lines = batch.lines if is_whole else batch.lines[first:end]
        cursor.copy_expert(COPY, io.BytesIO("".join(lines).encode()), 1 << 20)
        cursor.execute(EVENTS, [number])
        cursor.execute(SUMS)
        self.days |= days


def move_position(cursor: Cursor, stream: str, old: str, new: str) -> int:
    """Compare-and-set; the number of the batch that this begins, one more than the stream's last.

    A drain that is slower waits here for the other's commit, and then finds the position moved.
    """
    cursor.execute(
        "UPDATE journal_position SET position = %s, batch = batch + 1, updated_at = now() WHERE stream = %s AND position = %s "
        "RETURNING batch",
        [new, stream, old],
    )
    row = cursor.fetchone()
    if row is None:
        raise PositionTaken(f"{stream} is not at {old} any more")
    return int(row[0])


def quarantine(cursor: Cursor, stream: str, bad: list[Refused]) -> None:
    cursor.executemany(
        "INSERT INTO journal_quarantine (stream, stream_id, number, raw, error, created_at) VALUES (%s, %s, %s, %s, %s, now())",
        [(stream, *origin, error[:2000]) for origin, error in bad],
    )


def _first(cursor: Cursor) -> Any:
    row = cursor.fetchone()
    if row is None:
        raise psycopg2.InternalError("the statement gave no row")
    return row[0]
