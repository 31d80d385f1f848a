"""What a gateway knows of keys and models: records in memory, at most MAX_AGE old, dropped at once when a change is pushed.

Memory → the lanes server → PostgreSQL (the maker of tenants.records, in a thread). A record that is used is renewed in the
background before it gets too old, so that calls rarely wait. Neither store reachable: Unavailable, never a guess.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

from inference.gateway.lanes import Lanes
from inference.routes import unpack_route
from saas.lib.errors import AppError, Unavailable
from tenants import records
from tenants.principal import unpack_key

MAX_AGE = 5.0  # seconds that a lost push may go unnoticed (security.md, revocation)
RENEW_AGE = 2.0  # seconds after which a record in use is renewed beside the calls
KEEP = 86_400  # seconds that the lanes server keeps what a gateway made, so that calls outlive an outage of PostgreSQL
KEEP_ABSENT = 10  # seconds that it keeps "there is no such thing"
FETCH_SECONDS = 10.0  # that a call waits for a record
MAX_RECORDS = 100_000  # in one process's memory; the oldest go first
MAX_ABSENT = 10_000
LOOKUP_THREADS = 4  # that ask PostgreSQL
MAX_MAKING = 64  # look-ups in PostgreSQL that wait or run

UNPACK: dict[str, Callable[[bytes], Any]] = {"key": unpack_key, "route": unpack_route}
R = TypeVar("R")


class Records:
    """Lookups by record name (`key:…`, `route:…`). Lives on one event loop."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._known: dict[str, tuple[Any, float]] = {}  # name → (record or None, when read)
        self._absent: dict[str, float] = {}  # keys that nobody has, when read; apart, so that they push out no known ones
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookups")
        self._making = 0
        self._reading: dict[str, asyncio.Future[Any]] = {}
        self._changed_meanwhile: set[str] = set()

    def get(self, name: str) -> tuple[bool, Any]:
        """(True, record or None) if memory knows; (False, None) if it has to be fetched."""
        entry = self._known.get(name)
        if entry is None:
            return time.monotonic() - self._absent.get(name, -math.inf) < MAX_AGE, None
        age = time.monotonic() - entry[1]
        if age > RENEW_AGE:
            if age > MAX_AGE:
                return False, None
            if name not in self._reading:
                self._start(name)
        return True, entry[0]

    def has_seen(self, name: str) -> bool:
        """Whether it existed when it was last read, however long ago, or is known not to exist."""
        return name in self._known or self.get(name)[0]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, name: str) -> Any:
        """The record, or None: there is no such thing. Raises Unavailable."""
        known, record = self.get(name)
        if known:
            return record
        reading = asyncio.shield(self._reading.get(name) or self._start(name))
        try:
            return await asyncio.wait_for(reading, FETCH_SECONDS)
        except TimeoutError:
            raise Unavailable("Keys and models cannot be looked up right now; try again soon", retry_after=1) from None

    def drop(self, name: str) -> None:
        """It changed: forget it, and do not believe a reading that began before."""
        self._known.pop(name, None)
        self._absent.pop(name, None)
        if name in self._reading:
            self._changed_meanwhile.add(name)

    def _start(self, name: str) -> "asyncio.Future[Any]":
        reading = asyncio.ensure_future(self._read(name))
        self._reading[name] = reading
        reading.add_done_callback(lambda done: self._finish(name, done))
        return reading

    def _finish(self, name: str, reading: "asyncio.Future[Any]") -> None:
        self._reading.pop(name, None)
        if not reading.cancelled():
            reading.exception()  # a background renewal that failed is tried again by the next call

    async def _read(self, name: str) -> Any:
        while True:
            self._changed_meanwhile.discard(name)
            began = time.monotonic()
            packed = await self._stored(name)
            if packed is None:
                packed = await self._made(name)
            if name not in self._changed_meanwhile:
                break
        record = UNPACK[name.partition(":")[0]](packed) if packed else None
        if record is None and name.startswith("key:"):
            self._forget_key(name, began)
            return None
        if name not in self._known and len(self._known) >= MAX_RECORDS:
            del self._known[next(iter(self._known))]
        self._known[name] = (record, began)
        return record

    def _forget_key(self, name: str, began: float) -> None:
        self._known.pop(name, None)
        self._absent[name] = began
        if len(self._absent) > MAX_ABSENT:
            del self._absent[next(iter(self._absent))]

    async def _stored(self, name: str) -> bytes | None:
        return await self._lanes.ask("GET", name)  # type: ignore[no-any-return]  # a bulk string or nil

    async def _made(self, name: str) -> bytes:
        maker = records.makers[name.partition(":")[0]]
        if self._making >= MAX_MAKING:
            raise Unavailable("Keys and models cannot be looked up right now; try again soon", retry_after=1)
        self._making += 1
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._threads, _make, maker, name)
        except Exception as error:  # whatever PostgreSQL's driver says, the caller's answer is the same: not now
            if isinstance(error, AppError):
                raise
            raise Unavailable("Keys and models cannot be looked up right now; try again soon", retry_after=1) from error
        finally:
            self._making -= 1
        packed = made or b""
        stored = await self._lanes.ask("SET", name, packed, "NX", "GET", "EX", KEEP if packed else KEEP_ABSENT)
        return packed if stored is None else stored  # somebody newer was first


def _make(maker: Callable[[str], bytes | None], name: str) -> bytes | None:
    """In a thread: ask PostgreSQL on this thread's connection, if that is still a good one."""
    close_old_connections()
    return maker(name)
