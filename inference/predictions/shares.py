"""Whose predictions a worker's threads run: an organization may start one while it has fewer under way than threads are free.

Alone it has half of the threads; k organizations that want all of them end up with 1/(k + 1) each, and as much stays free for
whoever comes next. Nobody has to know who waits. Each worker decides by what it runs itself: there is nothing to agree on, and
nothing to clear up after one that died. The same holds for the bytes of their inputs, of which each is many times in memory
while it is worked on; a very large one counts as half of all, so that it has its turn.

So many organizations that want everything would leave nothing. That is bearable while what they run ends soon, but a customer's
own model may run to its deadline. So predictions have ranks: one more for the organization's own models, and one more for what
ran long there lately. Those of rank 1 and above have three quarters of all together, those of rank 2 half: some threads are
always with models of the catalogue, and some with own ones that end soon, however many organizations bring what does not end.
(Dynamic thresholds: Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998, there for buffers.)
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

MAX_BYTES = 32 << 20  # of inputs under way in this worker
SMALL_BYTES = 64 << 10  # of an input that is not counted there: what the threads can hold of them is little
PARTS = (1.0, 0.75, 0.5)  # of the threads, and of the bytes: for all, for those of rank 1 and 2, for those of rank 2
LONG = 5.0  # seconds
LONG_FOR = 600.0  # seconds that a run of at least LONG is remembered
MAX_ASIDE = 1000  # predictions of one sender that are remembered; of others the sweeper knows


class Sender(NamedTuple):
    """Whose predictions have one share of what ran long, and one order."""

    organization: UUID
    is_own: bool  # its own models, not the catalogue's


class Load:
    """What runs: threads or bytes of inputs, of which there are `most`."""

    def __init__(self) -> None:
        self._by_organization: Counter[UUID] = Counter()
        self._by_rank: Counter[int] = Counter()

    def of(self, organization: UUID) -> int:
        return self._by_organization[organization]

    def has_room(self, organization: UUID, rank: int, amount: int, most: int) -> bool:
        """Whether so much more leaves as much free as the organization then has, for all ranks that it counts in."""
        has = self._by_organization[organization] + amount
        return all(
            has <= max(1, int(most * PARTS[below])) - sum(self._by_rank[each] for each in range(below, len(PARTS)))
            for below in range(rank + 1)
        )

    def add(self, organization: UUID, rank: int, amount: int) -> None:
        self._by_organization[organization] += amount
        self._by_organization += Counter()  # without those that have nothing
        self._by_rank[rank] += amount

    def copy(self) -> "Load":
        other = Load()
        other._by_organization, other._by_rank = self._by_organization.copy(), self._by_rank.copy()
        return other


class Shares:
    """The `threads` of this worker. `send(organization, prediction)` is called for what may be tried again."""

    def __init__(
        self, threads: int, send: Callable[[UUID, UUID], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.threads, self._send, self._monotonic = threads, send, monotonic
        self._running, self._bytes = Load(), Load()
        self._aside: dict[Sender, dict[UUID, int]] = {}  # predictions that found no place, in order; their bytes
        self._long: dict[Sender, float] = {}  # when what they ran last for LONG ended, oldest first
        self._lock = threading.Lock()

    @contextmanager
    def take(self, organization: UUID, pk: UUID, size: int = 0, *, is_own: bool = False) -> Iterator[bool]:
        """Whether the prediction, of so many bytes, may run now; the place is free again at the end. If not, it is sent when
        it may. `is_own`: the model is not the catalogue's.

        A place is free at the end whatever happens; `send` is called without the lock, and what it raises is raised.
        """
        size = min(size, MAX_BYTES // 2) if size > SMALL_BYTES else 0
        sender = Sender(organization, is_own)
        with self._lock:
            rank = self._rank(sender)
            may_run = self._may_start(self._running, self._bytes, sender, size)
            if may_run:
                self._running.add(organization, rank, 1)
                self._bytes.add(organization, rank, size)
            else:
                self._put_aside(sender, pk, size)
        began = self._monotonic()
        try:
            yield may_run
        finally:
            if may_run:
                for waiting in self._end(sender, rank, size, began):
                    self._send(*waiting)

    def _rank(self, sender: Sender) -> int:
        return sender.is_own + (self._long.get(sender, -LONG_FOR) > self._monotonic() - LONG_FOR)

    def _may_start(self, running: Load, held: Load, sender: Sender, size: int) -> bool:
        organization, rank = sender.organization, self._rank(sender)
        has_thread = running.has_room(organization, rank, 1, self.threads)
        return has_thread and (not size or held.has_room(organization, rank, size, MAX_BYTES))

    def _put_aside(self, sender: Sender, pk: UUID, size: int) -> None:
        aside = self._aside.setdefault(sender, {})
        if len(aside) < MAX_ASIDE:
            aside[pk] = size

    def _end(self, sender: Sender, rank: int, size: int, began: float) -> list[tuple[UUID, UUID]]:
        """Free a place. Returns what may be tried now: first of the organizations that run least."""
        with self._lock:
            self._remember(sender, began)
            self._running.add(sender.organization, rank, -1)
            self._bytes.add(sender.organization, rank, -size)
            running, held, chosen = self._running.copy(), self._bytes.copy(), []
            while (found := self._next(running, held)) is not None:
                sender, pk, size = found
                running.add(sender.organization, self._rank(sender), 1)
                held.add(sender.organization, self._rank(sender), size)
                chosen.append((sender.organization, pk))
            return chosen

    def _remember(self, sender: Sender, began: float) -> None:
        """What has run since `began` if that was long; and forget what is too long ago."""
        now = self._monotonic()
        if now - began >= LONG:
            self._long.pop(sender, None)
            self._long[sender] = now
        while self._long and self._long[oldest := next(iter(self._long))] <= now - LONG_FOR:
            del self._long[oldest]

    def _next(self, running: Load, held: Load) -> tuple[Sender, UUID, int] | None:
        """Take the first prediction that may start off what is aside."""
        for sender in sorted(self._aside, key=lambda sender: (running.of(sender.organization), self._rank(sender))):
            aside = self._aside[sender]
            pk, size = next(iter(aside.items()))
            if self._may_start(running, held, sender, size):
                del aside[pk]
                if not aside:
                    del self._aside[sender]
                return sender, pk, size
        return None
