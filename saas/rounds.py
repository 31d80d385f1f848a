"""Work that comes in many small pieces, of which the loop does a few before it looks after everything else."""

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 4  # in one turn of the loop: what one connection parses in its turn takes up to a millisecond


class Rounds:
    """All of it happens on one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        """Do `work` when it is its turn."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            work = self._waiting[0]  # it stays while it is done, so that what it adds makes no second round
            try:
                work()
            finally:
                self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
