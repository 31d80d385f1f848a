"""Calls for the tests of the books, and how one waits for what becomes of them."""

import asyncio
from typing import Any

import redis

from inference.books.client import Books
from inference.books.open_call import OpenCall
from inference.books.record import UsageRecord, pack_opened, unpack_record
from inference.books.scripts import JOURNAL, TRIM, TRIMMED
from saas.lib.ids import uuid7

ALICE, CHARLIE = "a" * 32, "c" * 32
KEY, OTHER_KEY = "1" * 32, "2" * 32
PERIOD = "2026-11"
TIMEOUT = 15.0


class Asked:
    """A call with everything it was told: `opened` and `closed` are lists of verdicts."""

    def __init__(
        self,
        *,
        tenant: str = ALICE,
        key: str = KEY,
        most: int = 0,
        mode: str = "live",
        claim: bytes | None = None,
        fingerprint: bytes = b"body",
        period: str = PERIOD,
        keep: tuple[int, int] = (3600, 60),
    ) -> None:
        self.id = uuid7().hex
        self.record = UsageRecord(
            call=self.id, tenant=tenant, key=key, model="d" * 32, version="e" * 32, model_name="catalog/iris",
            version_number="1.0.0", endpoint="infer", mode=mode, kind="usage", period=period, price_version=0, rows=1,
            max_nano=most, opened_ms=1_795_000_000_000, request_id="r",
        )  # fmt: skip
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.replayed: bytes | None = None
        self.told = asyncio.Event()
        self.open_call = OpenCall(
            self.id, tenant, key, period, most, mode, pack_opened(self.record), self._on_open, claim, fingerprint, keep
        )
        self.record.nano = most

    def _on_open(self, verdict: str, stored: bytes | None) -> None:
        self.opened.append(verdict)
        self.replayed = stored
        self.told.set()

    def on_close(self, verdict: str) -> None:
        self.closed.append(verdict)
        self.told.set()

    async def hear(self) -> None:
        """Wait for the next thing that it is told."""
        async with asyncio.timeout(TIMEOUT):
            await self.told.wait()
        self.told.clear()

    async def open(self, books: Books) -> str:
        self.told.clear()
        books.open(self.open_call)
        await self.hear()
        return self.opened[-1]

    async def close(self, books: Books, *, nano: int | None = None, stored: bytes | None = None) -> str:
        if nano is not None:
            self.record.nano = nano
        self.told.clear()
        books.close(self.open_call, self.record, stored, self.on_close)
        await self.hear()
        return self.closed[-1]

    async def undo(self, books: Books) -> str:
        self.told.clear()
        books.undo(self.open_call, self.on_close)
        await self.hear()
        return self.closed[-1]


def read_journal(state: redis.Redis, after: str = "0-0", count: int = 1000) -> list[tuple[str, list[bytes]]]:
    """Entries after a position: (stream id, packed records)."""
    state.set_response_callback("XRANGE", _as_it_is)  # redis-py's own makes a dict, and all fields have one name
    reply: list[Any] = state.xrange(JOURNAL, f"({after}", "+", count)
    return [(stream_id.decode(), fields[1::2]) for stream_id, fields in reply]


def _as_it_is(reply: Any, **options: Any) -> Any:
    return reply


def trim_journal(state: redis.Redis, position: str) -> None:
    TRIM.run_sync(state, [JOURNAL, TRIMMED], [position])


def records(state: redis.Redis) -> list[UsageRecord]:
    return [unpack_record(packed) for _, entry in read_journal(state) for packed in entry]


def open_entries(state: redis.Redis) -> int:
    return sum(state.hlen(key) - 2 for key in state.keys("open:*"))


def charged(calls: int, nano: int) -> dict[str, int]:
    """The sums of an account with so many calls of KEY in PERIOD; zeros left out."""
    names = (f"{PERIOD}:", "ever:", f"{PERIOD}:{KEY}", f"ever:{KEY}")
    sums = {f"{kind}:{name}": n for name in names for kind, n in (("calls", calls), ("nano", nano))}
    return {field: n for field, n in sums.items() if n}
