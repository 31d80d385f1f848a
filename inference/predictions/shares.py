"""Whose predictions a worker's threads run: an organization may start one while it has fewer under way than threads are free.

Alone it has half of the threads; k organizations that want all of them end up with 1/(k + 1) each, and as much stays free for
whoever comes next. Nobody has to know who waits. Each worker decides by what it runs itself: there is nothing to agree on, and
nothing to clear up after one that died. The same holds for the bytes of their inputs, of which each is many times in memory
while it is worked on; a very large one counts as half of all, so that it has its turn.
(Dynamic thresholds: Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998, there for buffers.)
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

MAX_BYTES = 32 << 20  # of inputs under way in this worker
MAX_ASIDE = 1000  # predictions of one organization that are remembered; of others the sweeper knows


class Shares:
    """The `threads` of this worker. `send(organization, prediction)` is called for what may be tried again."""

    def __init__(self, threads: int, send: Callable[[UUID, UUID], None]) -> None:
        self.threads, self._send = threads, send
        self._running: Counter[UUID] = Counter()  # by organization
        self._bytes: Counter[UUID] = Counter()  # of what runs, by organization
        self._aside: dict[UUID, dict[UUID, int]] = {}  # by organization: predictions that found no place, in order; their bytes
        self._lock = threading.Lock()

    @contextmanager
    def take(self, organization: UUID, pk: UUID, size: int = 0) -> Iterator[bool]:
        """Whether the prediction, of so many bytes, may run now; the place is free again at the end. If not, it is sent when
        it may.

        A place is free at the end whatever happens; `send` is called without the lock, and what it raises is raised.
        """
        size = min(size, MAX_BYTES // 2)
        with self._lock:
            may_run = self._may_start(self._running, self._bytes, organization, size)
            if may_run:
                self._running[organization] += 1
                self._bytes[organization] += size
            else:
                self._put_aside(organization, pk, size)
        try:
            yield may_run
        finally:
            if may_run:
                for waiting in self._end(organization, size):
                    self._send(*waiting)

    def _may_start(self, running: Counter[UUID], held: Counter[UUID], organization: UUID, size: int) -> bool:
        has_thread = running[organization] < self.threads - running.total()
        return has_thread and (not size or held[organization] + size <= MAX_BYTES - held.total())

    def _put_aside(self, organization: UUID, pk: UUID, size: int) -> None:
        aside = self._aside.setdefault(organization, {})
        if len(aside) < MAX_ASIDE:
            aside[pk] = size

    def _end(self, organization: UUID, size: int) -> list[tuple[UUID, UUID]]:
        """Free a place. Returns what may be tried now: first of the organizations that run least."""
        with self._lock:
            self._running[organization] -= 1
            self._running += Counter()  # without those that run nothing
            self._bytes[organization] -= size
            self._bytes += Counter()
            running, held, chosen = self._running.copy(), self._bytes.copy(), []
            while (found := self._next(running, held)) is not None:
                organization, pk, size = found
                running[organization] += 1
                held[organization] += size
                chosen.append((organization, pk))
            return chosen

    def _next(self, running: Counter[UUID], held: Counter[UUID]) -> tuple[UUID, UUID, int] | None:
        """Take the first prediction that may start off what is aside."""
        for organization in sorted(self._aside, key=running.__getitem__):
            aside = self._aside[organization]
            pk, size = next(iter(aside.items()))
            if self._may_start(running, held, organization, size):
                del aside[pk]
                if not aside:
                    del self._aside[organization]
                return organization, pk, size
        return None
