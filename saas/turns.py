"""Which request is next: callers take turns, and each has a share of the places. All of it happens on one event loop."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from saas.callers import Caller
from saas.lib.errors import CapacityExhausted, ConcurrencyLimited


class Turns:
    """`places` run at the same time, at most `each` of one caller's; `present` are here at most, `present_each` of one's.

    All strangers together have half of either, from however many places they come, and one of them half of their places.
    """

    def __init__(self, places: int, *, each: int, present: int, present_each: int) -> None:
        self._free, self._each = places, each
        self._strangers, self._each_stranger = max(1, places // 2), max(1, places // 4)
        self._present_most, self._present_each = present, present_each
        self._present: Counter[Caller] = Counter()
        self._running: Counter[Caller] = Counter()
        self._waiting: dict[Caller, deque[asyncio.Future[None]]] = {}  # by caller; the first in it is next

    @contextmanager
    def presence(self, caller: Caller) -> Iterator[None]:
        """Be here. Raises ConcurrencyLimited if too many of this caller's are, CapacityExhausted if too many of all are."""
        if self._present[caller] >= self._present_each:
            raise ConcurrencyLimited(f"{self._present_each} of these requests are under way: wait for answers", retry_after=1)
        is_full = self._present.total() >= self._present_most
        if is_full or (caller.is_stranger and strangers(self._present) >= self._present_most // 2):
            raise CapacityExhausted("Too many requests are under way", retry_after=1, source="platform")
        self._present[caller] += 1
        try:
            yield
        finally:
            _less(self._present, caller)

    @asynccontextmanager
    async def place(self, caller: Caller, gone: "asyncio.Future[None]") -> AsyncIterator[bool]:
        """Wait for a place and have it. False if `gone`, the client's leaving, came first."""
        leave = await self.turn(caller, gone)
        try:
            yield leave is not None
        finally:
            if leave is not None:
                leave()

    async def turn(self, caller: Caller, gone: "asyncio.Future[None]") -> Callable[[], None] | None:
        """Wait for a place; returns what gives it back, again and again if you like. None if `gone` came first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._next()
        is_kept = False
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
            is_kept = turn.done() and not gone.done()
        finally:
            if not turn.done():
                self._forget(caller, turn)
            elif not is_kept:
                self._leave(caller)
        held = [caller]
        return (lambda: self._leave(held.pop()) if held else None) if is_kept else None

    def _leave(self, caller: Caller) -> None:
        _less(self._running, caller)
        self._free += 1
        self._next()

    def _next(self) -> None:
        while self._free:
            caller = next((caller for caller in self._waiting if self._may_run(caller)), None)
            if caller is None:
                return
            turns = self._waiting.pop(caller)
            turn = turns.popleft()
            if turns:
                self._waiting[caller] = turns  # behind all others
            self._running[caller] += 1
            self._free -= 1
            turn.set_result(None)

    def _may_run(self, caller: Caller) -> bool:
        if caller.is_stranger:
            return self._running[caller] < self._each_stranger and strangers(self._running) < self._strangers
        return self._running[caller] < self._each

    def _forget(self, caller: Caller, turn: "asyncio.Future[None]") -> None:
        self._waiting[caller].remove(turn)
        if not self._waiting[caller]:
            del self._waiting[caller]


def strangers(counter: Counter[Caller]) -> int:
    """What all strangers together have of what is counted."""
    return sum(count for caller, count in counter.items() if caller.is_stranger)


def _less(counter: Counter[Caller], caller: Caller) -> None:
    counter[caller] -= 1
    if not counter[caller]:
        del counter[caller]
