"""The ledger's writing side: one batch of journal records becomes rows and sums, exactly once, in one transaction.

Everything here runs as the role `maas_metering`, on a psycopg2 connection of its own: a batch is one COPY and two statements.
"""

import datetime
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import psycopg2
from django.db import connections
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from billing.records import NO_KEY, JournalRecord, day_of, opened_day
from billing.rollup import Rollup, roll_up

COLUMNS = (
    "day, call_id, seq, tenant_id, api_key_id, model_id, version_id, model_name, version_number, endpoint, mode, kind, period, "
    "rows, bytes_in, bytes_out, queue_us, compute_us, price_version, amount_nano, currency, is_clamped, request_id, opened_at, "
    "closed_at, stream_id"
)
# COPY does not go into a table with row-level security, so the rows go over a temporary one.
INCOMING = "CREATE TEMPORARY TABLE IF NOT EXISTS incoming (LIKE usage_event) ON COMMIT DELETE ROWS"
COPY = f"COPY pg_temp.incoming ({COLUMNS}) FROM STDIN"
INSERT = f"INSERT INTO usage_event ({COLUMNS}) SELECT {COLUMNS} FROM pg_temp.incoming"  # noqa: S608  # constants
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

RefusedRecord = tuple[JournalRecord, str]
"""A record that cannot become a row, and why."""


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


def ensure_days(connection: Connection, days: Sequence[datetime.date]) -> None:
    """Make the partitions of `days` in a transaction of its own, before rows need them."""
    with connection, connection.cursor() as cursor:
        for day in days:
            cursor.execute("SELECT ensure_usage_partition(%s)", [day])


class Writer:
    """Writes batches over one connection, and remembers which days have a partition and which prices which currency."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.days: set[int] = set()
        self.currencies: dict[int, str] = {}

    def write(
        self, records: list[JournalRecord], refused: list[RefusedRecord], *, stream: str, old: str, new: str
    ) -> list[RefusedRecord]:
        """Move `stream` from position `old` to `new` with its `records`, or change nothing.

        What the table does not take goes into quarantine together with `refused`, which could not be read at all; both are
        returned. Raises PositionTaken, or psycopg2's error: the transaction is then rolled back.
        """
        with self.connection, self.connection.cursor() as cursor:
            move_position(cursor, stream, old, new)
            unpriced = self._unpriced(cursor, records)
            taken, untaken = self._insert(
                cursor, [record for record in records if record.usage.price_version in self.currencies]
            )
            bad = refused + unpriced + untaken
            if bad:
                quarantine(cursor, stream, bad)
            write_rollup(cursor, roll_up(taken, self.currencies))
        return bad

    def _unpriced(self, cursor: Cursor, records: list[JournalRecord]) -> list[RefusedRecord]:
        """The records whose price version does not exist."""
        if not {record.usage.price_version for record in records} <= self.currencies.keys():
            cursor.execute("SELECT version, currency FROM price_version")
            self.currencies = dict(cursor.fetchall())
        return [
            (record, f"there is no price version {record.usage.price_version}")
            for record in records
            if record.usage.price_version not in self.currencies
        ]

    def _insert(self, cursor: Cursor, records: list[JournalRecord]) -> tuple[list[JournalRecord], list[RefusedRecord]]:
        """Insert `records`; by halves where the table refuses some, until the bad ones stand alone. → (taken, refused)."""
        if not records:
            return [], []
        cursor.execute("SAVEPOINT batch")
        try:
            self._copy(cursor, records)
        except (psycopg2.DataError, psycopg2.IntegrityError) as error:
            cursor.execute("ROLLBACK TO SAVEPOINT batch")
            self.days.clear()
            if len(records) == 1:
                return [], [(records[0], str(error).strip())]
            half = len(records) // 2
            taken, refused = self._insert(cursor, records[:half])
            cursor.execute("DELETE FROM pg_temp.incoming")
            more_taken, more_refused = self._insert(cursor, records[half:])
            return taken + more_taken, refused + more_refused
        cursor.execute("RELEASE SAVEPOINT batch")
        return records, []

    def _copy(self, cursor: Cursor, records: list[JournalRecord]) -> None:
        days = {opened_day(record.usage.call) for record in records}
        for day in sorted(days - self.days):
            cursor.execute("SELECT ensure_usage_partition(%s)", [day_of(day)])
        lines = [line(record, self.currencies[record.usage.price_version]) for record in records]
        lines.sort()  # by day and call id: neighbours in the index
        cursor.copy_expert(COPY, io.StringIO("".join(lines)))
        cursor.execute(INSERT)
        self.days |= days


def line(record: JournalRecord, currency: str) -> str:
    """A row for COPY, in the order of COLUMNS."""
    usage = record.usage
    return (
        f"{day_of(opened_day(usage.call))}\t{usage.call}\t0\t{usage.tenant}\t{usage.key or NO_KEY}\t{usage.model}\t"
        f"{usage.version}\t{_text(usage.model_name)}\t{_text(usage.version_number)}\t{_text(usage.endpoint)}\t{_text(usage.mode)}\t"
        f"{_text(usage.kind)}\t{_text(usage.period)}\t{usage.rows}\t{usage.bytes_in}\t{usage.bytes_out}\t{usage.queue_us}\t"
        f"{usage.compute_us}\t{usage.price_version}\t{usage.nano}\t{currency}\t{'t' if usage.is_clamped else 'f'}\t"
        f"{usage.request_id.translate(ESCAPES)}\t{_time(usage.opened_ms)}\t{_time(usage.closed_ms)}\t{record.stream_id}\n"
    )


@lru_cache(maxsize=10_000)
def _text(value: str) -> str:
    return value.translate(ESCAPES)


def _time(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).isoformat()


def move_position(cursor: Cursor, stream: str, old: str, new: str) -> None:
    """Compare-and-set. A drain that is slower waits here for the other's commit, and then finds the position moved."""
    cursor.execute(
        "UPDATE journal_position SET position = %s, updated_at = now() WHERE stream = %s AND position = %s", [new, stream, old]
    )
    if cursor.rowcount != 1:
        raise PositionTaken(f"{stream} is not at {old} any more")


def quarantine(cursor: Cursor, stream: str, bad: list[RefusedRecord]) -> None:
    cursor.executemany(
        "INSERT INTO journal_quarantine (stream, stream_id, number, raw, error, created_at) VALUES (%s, %s, %s, %s, %s, now())",
        [(stream, record.stream_id, record.number, record.raw, error[:2000]) for record, error in bad],
    )


HOUR = """
INSERT INTO usage_hour AS h (tenant_id, hour, api_key_id, model_id, version_id, mode, currency, model_name, version_number,
  calls, reversed, rows, bytes_in, bytes_out, queue_us, compute_us, total_ms, amount_nano)
SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[],
  %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
  %s::bigint[])
ON CONFLICT (tenant_id, hour, api_key_id, model_id, version_id, mode, currency) DO UPDATE SET
  model_name = excluded.model_name, version_number = excluded.version_number,
  calls = h.calls + excluded.calls, reversed = h.reversed + excluded.reversed, rows = h.rows + excluded.rows,
  bytes_in = h.bytes_in + excluded.bytes_in, bytes_out = h.bytes_out + excluded.bytes_out,
  queue_us = h.queue_us + excluded.queue_us, compute_us = h.compute_us + excluded.compute_us,
  total_ms = h.total_ms + excluded.total_ms, amount_nano = h.amount_nano + excluded.amount_nano
"""
SUM = """
INSERT INTO usage_sum AS s (tenant_id, scope, period, calls, amount_nano)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
ON CONFLICT (tenant_id, scope, period) DO UPDATE SET
  calls = s.calls + excluded.calls, amount_nano = s.amount_nano + excluded.amount_nano
"""


def write_rollup(cursor: Cursor, rollup: Rollup) -> None:
    """Add a batch to the hours and sums, each with one statement."""
    for statement, rows in ((HOUR, rollup.hours), (SUM, rollup.sums)):
        if rows:
            cursor.execute(statement, [list(column) for column in zip(*rows, strict=True)])


def _first(cursor: Cursor) -> Any:
    row = cursor.fetchone()
    if row is None:
        raise psycopg2.InternalError("the statement gave no row")
    return row[0]
