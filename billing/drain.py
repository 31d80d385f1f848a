"""Moves the journal (state server) into the ledger (PostgreSQL), exactly once (books.md, Journal to ledger).

The position that PostgreSQL holds is the truth. A round reads what lies after it, writes rows, sums and the new position in one
transaction, and only then trims the stream: a crash anywhere in between reads the same entries again and writes nothing twice.
Any number of drains may run; of two with the same batch one commits.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import redis

from billing import ledger
from billing.records import JournalRecord, read_entry
from inference.books.scripts import JOURNAL, TRIM

log = logging.getLogger(__name__)

BATCH_RECORDS = 5000  # a round reads on until it holds so many; one page more at most
PAGE_ENTRIES = 64  # an entry holds up to 256 records
STATUS = "bookkeeper"
"""Hash on the lanes server: drain_lag_ms, drain_position, drain_rows, drain_quarantined, drain_at (epoch seconds)."""

Entry = tuple[bytes, list[bytes]]


class Drain:
    """One drain. `step()` moves one batch; its connections, position and what it knows of the ledger are kept between steps.

    `on_drained` is called after each commit with the records that are in the ledger now.
    """

    def __init__(
        self, state: redis.Redis, *, stream: str = JOURNAL, on_drained: Callable[[list[JournalRecord]], None] | None = None
    ) -> None:
        self.state = state
        self.stream = stream
        self.on_drained = on_drained
        self.writer: ledger.Writer | None = None
        self.position: str | None = None
        self.lag_ms = 0  # age of the oldest entry that the last step found, on the state server's clock
        self.rows = 0  # written by this drain since it started
        self.quarantined = 0
        state.set_response_callback("XRANGE", lambda reply, **options: reply)  # a dict would keep one of many fields called `r`

    def step(self) -> int:
        """Move one batch and return how many records it held; 0 if the journal is empty.

        Raises redis.RedisError or psycopg2.Error when a server does not do its part: nothing is lost, call again.
        """
        try:
            return self._step()
        except psycopg2.Error:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; the next step makes a new one and asks for the position again."""
        if self.writer is not None:
            self.writer.connection.close()
        self.writer, self.position = None, None

    def _step(self) -> int:
        writer = self.writer = self.writer or ledger.Writer(ledger.connect())
        if self.position is None:
            self.position = ledger.read_position(writer.connection, self.stream)
            self._trim()  # what a crashed drain had committed and not trimmed
        entries = self._read(self.position)
        self.lag_ms = max(0, self._now_ms() - _milliseconds(entries[0][0])) if entries else 0
        if not entries:
            return 0
        records, refused = _decode(entries)
        new = entries[-1][0].decode()
        try:
            bad = writer.write(records, refused, stream=self.stream, old=self.position, new=new)
        except ledger.PositionTaken:
            log.info("another drain was first", extra={"position": self.position})
            self.position = None
            return 0
        self.position = new
        self._count(len(records) + len(refused) - len(bad), bad)
        self._trim()
        if self.on_drained:
            self.on_drained(records)
        return len(records) + len(refused)

    def _read(self, position: str) -> list[Entry]:
        """Entries after `position`, page by page, until they hold BATCH_RECORDS or there are no more."""
        entries: list[Entry] = []
        count = 0
        while count < BATCH_RECORDS:
            page: list[Entry] = self._command("XRANGE", self.stream, f"({position}", "+", "COUNT", PAGE_ENTRIES)
            entries += page
            count += sum(len(fields) for _, fields in page) // 2
            if len(page) < PAGE_ENTRIES:
                break
            position = page[-1][0].decode()
        return entries

    def _trim(self) -> None:
        """Remove what the ledger holds: all entries up to and including the position, never further."""
        TRIM.run_sync(self.state, [self.stream, f"{self.stream}:trimmed"], [self.position or "0-0"])

    def _count(self, rows: int, bad: list[ledger.RefusedRecord]) -> None:
        self.rows += rows
        self.quarantined += len(bad)
        for record, error in bad:
            log.error(
                "a journal record was put into quarantine",
                extra={"stream_id": record.stream_id, "number": record.number, "error": error},
            )

    def _now_ms(self) -> int:
        seconds, microseconds = self._command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _command(self, *arguments: Any) -> Any:
        return self.state.execute_command(*arguments)  # type: ignore[no-untyped-call]  # redis-py's is not annotated

    def report(self, lanes: redis.Redis) -> None:
        """Put the drain's state where /metrics finds it."""
        lanes.hset(
            STATUS,
            mapping={
                "drain_lag_ms": self.lag_ms,
                "drain_position": self.position or "",
                "drain_rows": self.rows,
                "drain_quarantined": self.quarantined,
                "drain_at": f"{time.time():.3f}",
            },
        )


def _decode(entries: list[Entry]) -> tuple[list[JournalRecord], list[ledger.RefusedRecord]]:
    records: list[JournalRecord] = []
    refused: list[ledger.RefusedRecord] = []
    for stream_id, fields in entries:
        more, unreadable = read_entry(stream_id.decode(), fields)
        records += more
        refused += unreadable
    return records, refused


def _milliseconds(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])
