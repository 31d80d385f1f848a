"""Journal entries, read: raw stream fields become lines for COPY, and what cannot be read says why.

This is the drain's inner loop, some five microseconds a record: what many records have in common (model, price, …) is made into
text once, and everything that PostgreSQL checks anyway is left to it.
"""

import datetime
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from inference.books.record import UsageRecord, unpack_record

Entry = tuple[bytes, list[bytes]]
"""Stream id and fields: `r`, record, `r`, record …; or a MARKER."""

COLUMNS = (
    "day, call_id, tenant_id, api_key_id, model_id, version_id, model_name, version_number, endpoint, mode, kind, period, "
    "price_version, currency, rows, bytes_in, bytes_out, queue_us, compute_us, amount_nano, is_clamped, request_id, opened_ms, "
    "closed_ms, stream_id, digests"
)
"""What a line holds: as the ledger's rows, but `day` is a number of days and times are milliseconds, both since the epoch."""

NO_KEY = "0" * 32  # stands in the ledger for the key of a call that a session started
DAY_MS = 86_400_000
LAST_DAY = 2_932_896  # 9999-12-31
TIMES_END = 1 << 47  # milliseconds; below it everything is a time that the calendar has
EPOCH = datetime.date(1970, 1, 1)
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
MOST_COMMON = 100_000  # texts kept


class Origin(NamedTuple):
    """Where a record lies: field `number`, from 0, of the stream entry `stream_id`."""

    stream_id: str
    number: int
    raw: bytes


MARKER = b"m"
"""The field of an entry that only says that the hours before it are over (end_hours.lua)."""

Refused = tuple[Origin, str]
"""A record that cannot become a row, and why."""


class UnknownPrice(ValueError):
    """A record names a price version that is not known here."""


class Batch:
    """Records as lines in the order of COLUMNS, with the `origins` of each, and what they have in common."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.origins: list[Origin] = []
        self.refused: list[Refused] = []
        self.days: set[int] = set()
        self.last_used: dict[str, int] = {}  # key → newest opening, milliseconds since the epoch
        self.is_price_unknown = False

    def __len__(self) -> int:
        return len(self.lines) + len(self.refused)


class Reader:
    """Reads entries; `currencies` by price version. It keeps between batches what records have in common."""

    def __init__(self) -> None:
        self.currencies: dict[int, str] = {}
        self._common: dict[tuple[str | int, ...], str] = {}

    def read(self, entries: Sequence[Entry]) -> Batch:
        """All records of `entries`; those that are none, or whose price is unknown, as refused."""
        batch = Batch()
        if len(self._common) > MOST_COMMON:
            self._common.clear()
        for stream_id, fields in entries:
            self._read_entry(stream_id.decode(), fields, batch)
        return batch

    def _read_entry(self, stream_id: str, fields: list[bytes], batch: Batch) -> None:
        for number, (name, raw) in enumerate(zip(fields[::2], fields[1::2], strict=True)):
            origin = Origin(stream_id, number, raw)
            try:
                if name == MARKER:
                    continue
                if name != b"r":
                    raise ValueError(f"unknown field {name!r}")
                line = self._line(unpack_record(raw), stream_id, batch)
            except (ValueError, msgspec.MsgspecError) as error:
                batch.is_price_unknown |= isinstance(error, UnknownPrice)
                batch.refused.append((origin, str(error)))
            else:
                batch.lines.append(line)
                batch.origins.append(origin)

    def _line(self, usage: UsageRecord, stream_id: str, batch: Batch) -> str:
        key, opened = usage.key or NO_KEY, usage.opened_ms
        if not (usage.call + usage.tenant + key).isalnum():
            raise ValueError("an id is not one")
        if usage.digests and not usage.digests.replace(":", "").isalnum():
            raise ValueError("the digests are none")
        if not 0 <= opened < TIMES_END or not 0 <= usage.closed_ms < TIMES_END:
            raise ValueError("a time is out of range")
        day = opened_day(usage.call)
        if day not in batch.days:
            if day > LAST_DAY:
                raise ValueError("the day is out of range")
            batch.days.add(day)
        shared = (
            usage.model, usage.version, usage.model_name, usage.version_number, usage.endpoint, usage.mode, usage.kind,
            usage.period, usage.price_version,
        )  # fmt: skip
        common = self._common.get(shared) or self._make_common(shared)
        request_id = usage.request_id
        if not request_id.isalnum():
            request_id = request_id.translate(ESCAPES)
        if batch.last_used.get(key, 0) < opened:
            batch.last_used[key] = opened
        return (
            f"{day}\t{usage.call}\t{usage.tenant}\t{key}\t{common}\t{usage.rows}\t{usage.bytes_in}\t{usage.bytes_out}\t"
            f"{usage.queue_us}\t{usage.compute_us}\t{usage.nano}\t{usage.is_clamped}\t{request_id}\t{opened}\t{usage.closed_ms}\t"
            f"{stream_id}\t{usage.digests}\n"
        )

    def _make_common(self, shared: tuple[str | int, ...]) -> str:
        currency = self.currencies.get(int(shared[-1]))
        if currency is None:
            raise UnknownPrice(f"there is no price version {shared[-1]}")
        text = "\t".join(str(part).translate(ESCAPES) for part in (*shared, currency))
        self._common[shared] = text
        return text


def opened_day(call: str) -> int:
    """The day, counted from 1970-01-01, of a UUIDv7 call id: the partition of its row."""
    return int(call[:12], 16) // DAY_MS


@lru_cache(maxsize=1000)
def day_of(number: int) -> datetime.date:
    return EPOCH + datetime.timedelta(days=number)
