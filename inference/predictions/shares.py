"""Whose predictions a worker's threads run: an organization may start one while it has fewer under way than threads are free.

Alone it has half of the threads; k organizations that want all of them end up with 1/(k + 1) each, and as much stays free for
whoever comes next. Nobody has to know who waits. Each worker decides by what it runs itself: there is nothing to agree on, and
nothing to clear up after one that died. (Dynamic thresholds: Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998, there for buffers.)
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

MAX_ASIDE = 1000  # predictions of one organization that are remembered; of others the sweeper knows


class Shares:
    """The `threads` of this worker. `send(organization, prediction)` is called for what may be tried again."""

    def __init__(self, threads: int, send: Callable[[UUID, UUID], None]) -> None:
        self.threads, self._send = threads, send
        self._running: Counter[UUID] = Counter()  # by organization
        self._aside: dict[UUID, dict[UUID, None]] = {}  # by organization: predictions that found no place, in their order
        self._lock = threading.Lock()

    @contextmanager
    def take(self, organization: UUID, pk: UUID) -> Iterator[bool]:
        """Whether the prediction may run now; the place is free again at the end. If not, it is sent when it may.

        A place is free at the end whatever happens; `send` is called without the lock, and what it raises is raised.
        """
        with self._lock:
            may_run = self._may_start(self._running, organization)
            if may_run:
                self._running[organization] += 1
            else:
                self._put_aside(organization, pk)
        try:
            yield may_run
        finally:
            if may_run:
                for waiting in self._end(organization):
                    self._send(*waiting)

    def _may_start(self, running: Counter[UUID], organization: UUID) -> bool:
        return running[organization] < self.threads - running.total()

    def _put_aside(self, organization: UUID, pk: UUID) -> None:
        aside = self._aside.setdefault(organization, {})
        if len(aside) < MAX_ASIDE:
            aside[pk] = None

    def _end(self, organization: UUID) -> list[tuple[UUID, UUID]]:
        """Free a place. Returns what may be tried now: first of the organizations that run least."""
        with self._lock:
            self._running[organization] -= 1
            self._running += Counter()  # without those that run nothing
            planned, chosen = self._running.copy(), []
            while self._aside:
                least = min(self._aside, key=planned.__getitem__)
                if not self._may_start(planned, least):
                    break
                aside = self._aside[least]
                pk = next(iter(aside))
                del aside[pk]
                if not aside:
                    del self._aside[least]
                planned[least] += 1
                chosen.append((least, pk))
            return chosen
