"""Journal entries, read: raw stream fields become usage records, and what cannot be read says why."""

import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from inference.books.record import UsageRecord, unpack_record

NO_KEY = "0" * 32  # stands in the ledger for the key of a call that a session started
DAY_MS = 86_400_000
LAST_DAY = 2_932_896  # 9999-12-31
EPOCH = datetime.date(1970, 1, 1)


class JournalRecord(NamedTuple):
    """A usage record and where it lies: field `number`, from 0, of the stream entry `stream_id`."""

    stream_id: str
    number: int
    raw: bytes
    usage: UsageRecord


UNREAD = UsageRecord("", "", "", "", "", "", "", "", "", "", "", 0, 0, 0, 0, "")


def read_entry(stream_id: str, fields: list[bytes]) -> tuple[list[JournalRecord], list[tuple[JournalRecord, str]]]:
    """The records of one entry, whose fields are `r`, record, `r`, record …; and what is not a record, with the reason."""
    records, refused = [], []
    for number, (name, raw) in enumerate(zip(fields[::2], fields[1::2], strict=True)):
        try:
            if name != b"r":
                raise ValueError(f"unknown field {name!r}")
            usage = unpack_record(raw)
            _check(usage)
        except (ValueError, msgspec.MsgspecError) as error:
            refused.append((JournalRecord(stream_id, number, raw, UNREAD), str(error)))
        else:
            records.append(JournalRecord(stream_id, number, raw, usage))
    return records, refused


def _check(usage: UsageRecord) -> None:
    """Raise ValueError for what could not even be written as a line: an id that is none, a time that no calendar has."""
    for digits in (usage.call, usage.tenant, usage.model, usage.version, usage.key or NO_KEY):
        if len(digits) != 32 or not digits.isalnum():
            raise ValueError(f"{digits!r} is not an id")
    if opened_day(usage.call) > LAST_DAY or not 0 <= usage.opened_ms < 1 << 47 or not 0 <= usage.closed_ms < 1 << 47:
        raise ValueError("a time is out of range")


def opened_day(call: str) -> int:
    """The day, counted from 1970-01-01, of a UUIDv7 call id: the partition of its row."""
    return int(call[:12], 16) // DAY_MS


@lru_cache(maxsize=1000)
def day_of(number: int) -> datetime.date:
    return EPOCH + datetime.timedelta(days=number)
