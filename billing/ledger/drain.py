"""Moves the journal (state server) into the ledger (PostgreSQL), exactly once (books.md, Journal to ledger).

The position that PostgreSQL holds is the truth. A step reads what lies after it (`take`), commits rows, sums and the new
position in one transaction (`write`), and only then trims the stream (`trim`): a crash anywhere in between reads the same
entries again and writes nothing twice. Any number of drains may run; of two with the same batch one commits. Hours follow
behind (billing.ledger.hours).
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg2
import redis

from billing.ledger import writing
from billing.ledger.records import Batch, Entry, Reader, Refused
from inference.books.scripts import JOURNAL, TRIM
from saas.lib import clock

log = logging.getLogger(__name__)

BATCH_RECORDS = 40_000  # a step reads on until it holds so many, one page more at most; a busy second's
PAGE_ENTRIES = 64  # an entry holds up to 256 records
STATUS = "bookkeeper"
"""Hash on the lanes server: drain_lag_ms, drain_position, drain_rows, drain_quarantined, drain_at (epoch seconds)."""


class Taken(NamedTuple):
    """A batch read from the journal after `old`, whose last entry is `new`."""

    batch: Batch
    old: str
    new: str


class Drain:
    """One drain. `step()` moves one batch; its connections, position and what it knows of the ledger are kept between steps.

    `on_drained` is called after each commit with the keys that were used: newest opening of each, in ms since the epoch.
    """

    def __init__(
        self,
        state: redis.Redis,
        *,
        stream: str = JOURNAL,
        on_drained: Callable[[dict[str, int]], None] | None = None,
        batch_records: int = BATCH_RECORDS,
    ) -> None:
        self.state = state
        self.batch_records = batch_records
        self.stream = stream
        self.on_drained = on_drained
        self.reader = Reader()
        self.writer: writing.Writer | None = None
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
            taken = self.take()
            if taken is None or not self.write(taken):
                return 0
        except psycopg2.Error:
            self.close()
            raise
        self.trim()
        return len(taken.batch)

    def close(self) -> None:
        """Drop the connection; the next step makes a new one and asks for the position again."""
        if self.writer is not None:
            self.writer.connection.close()
        self.writer, self.position = None, None

    def take(self) -> Taken | None:
        """Read the next batch; None if there is none. It changes nothing but the trim that a crashed drain owes."""
        writer = self.writer = self.writer or writing.Writer(writing.connect())
        if self.position is None:
            self.position = writing.read_position(writer.connection, self.stream)
            self.trim()
        entries = self._read(self.position)
        self.lag_ms = max(0, self._now_ms() - _milliseconds(entries[0][0])) if entries else 0
        if not entries:
            return None
        batch = self.reader.read(entries)
        if batch.is_price_unknown:
            self.reader.currencies = writing.read_currencies(writer.connection)
            batch = self.reader.read(entries)
        return Taken(batch, self.position, entries[-1][0].decode())

    def write(self, taken: Taken) -> bool:
        """Commit rows, sums and position; False if another drain was first."""
        if self.writer is None:
            raise psycopg2.InterfaceError("the connection was dropped after the batch was read")
        try:
            bad = self.writer.write(taken.batch, stream=self.stream, old=taken.old, new=taken.new)
        except writing.PositionTaken:
            log.info("another drain was first", extra={"position": taken.old})
            self.position = None
            return False
        self.position = taken.new
        self._count(len(taken.batch) - len(bad), bad)
        if self.on_drained:
            self.on_drained(taken.batch.last_used)
        return True

    def _read(self, position: str) -> list[Entry]:
        """Entries after `position`, page by page, until they hold `batch_records` or there are no more."""
        entries: list[Entry] = []
        count, page_entries = 0, min(PAGE_ENTRIES, self.batch_records)
        while count < self.batch_records:
            page: list[Entry] = self._command("XRANGE", self.stream, f"({position}", "+", "COUNT", page_entries)
            entries += page
            count += sum(len(fields) for _, fields in page) // 2
            if len(page) < page_entries:
                break
            position = page[-1][0].decode()
        return entries

    def trim(self) -> None:
        """Remove what the ledger holds: all entries up to and including the position, never further."""
        TRIM.run_sync(self.state, [self.stream, f"{self.stream}:trimmed"], [self.position or "0-0"])

    def _count(self, rows: int, bad: list[Refused]) -> None:
        self.rows += rows
        self.quarantined += len(bad)
        for origin, error in bad:
            log.error(
                "a journal record was put into quarantine",
                extra={"stream_id": origin.stream_id, "number": origin.number, "error": error},
            )

    def _now_ms(self) -> int:
        seconds, microseconds = self._command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000 + clock.offset_ms()

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


def _milliseconds(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])
