"""Lets the sums of old months go from the accounts: nothing asks for them, and the ledger has them.

First it is said from which month on sums are kept (keep.lua); from that moment no script writes, installs or compares an older
one (prelude.lua), whatever an entry that was opened then, or a record in the journal, still names. So nothing that is closed
late can make a sum anew, and the fields can be removed one by one, at leisure.

Said too high, for example by clocks that were years ahead, calls of this month would be refused. The way back: remove
accounts:kept_from and every account:…; the accounts are made anew from the ledger.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from inference.books.scripts import KEEP, KEPT_FROM

LOOK_EVERY = 60.0  # seconds between looks at the calendar
KEYS_PER_PAGE = 1000
FIELDS_PER_PAGE = 500


def kept_from(now: datetime) -> str:
    """This month and the one before are kept: who opened a call last month may not have closed it yet."""
    last_month = now.replace(day=1) - timedelta(days=1)
    return f"{last_month:%Y-%m}"


def earlier_clock(state: redis.Redis, own: datetime) -> datetime:
    """What both clocks agree has begun, the state server's and our own."""
    seconds: Any = state.time()  # redis-py cannot tell that this is a pair of numbers
    return min(own, datetime.fromtimestamp(seconds[0], UTC))


class Pruner:
    """Call `step` again and again, unhurried: each is a command or two, on one page of keys or fields.

    Any number of pruners may run.
    """

    def __init__(self, state: redis.Redis, now: Callable[[], datetime] | None = None) -> None:
        """`now` is for simulations."""
        self._state, self._now = state, now or (lambda: earlier_clock(state, datetime.now(UTC)))
        self._done = ""  # the month before which all has been removed
        self._walk: Iterator[None] | None = None
        self._looked = float("-inf")

    def step(self) -> bool:
        """Do a little; whether there is more to do. Raises redis.RedisError: then all begins anew."""
        try:
            if self._walk is not None:
                next(self._walk)
            elif time.monotonic() - self._looked >= LOOK_EVERY:
                self._look()
                self._looked = time.monotonic()
        except StopIteration:
            self._walk = None
        except redis.RedisError:
            self._walk, self._looked = None, float("-inf")
            raise
        return self._walk is not None

    def _look(self) -> None:
        """Begin a walk if there is something to remove."""
        oldest = KEEP.run_sync(self._state, [KEPT_FROM], [kept_from(self._now())]).decode()
        if oldest != self._done:
            self._walk = self._remove_before(oldest)

    def _remove_before(self, oldest: str) -> Iterator[None]:
        for accounts in self._pages(self._state.scan, match="account:*", count=KEYS_PER_PAGE, _type="HASH"):
            yield
            for account in accounts:
                for fields in self._pages(self._state.hscan, account, count=FIELDS_PER_PAGE):
                    if old := [field for field in fields if _is_before(field.decode(), oldest)]:
                        self._state.hdel(account, *old)
                    yield
        self._done = oldest

    def _pages(self, scan: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:  # Any: as redis-py has them
        cursor = None
        while cursor != 0:
            cursor, page = scan(*arguments, cursor=cursor or 0, **options)
            yield page


def _is_before(field: str, oldest: str) -> bool:
    """Whether it is a sum, `calls:2026-11:…` or `nano:2026-11:…`, of a month before."""
    kind, _, rest = field.partition(":")
    return kind in ("calls", "nano") and rest.partition(":")[0] < oldest
