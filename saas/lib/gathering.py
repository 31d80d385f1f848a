"""Let what comes with the next rounds of an event loop travel together.

A script on a Valkey costs some 40 µs before it looks at the first call, and waking up the other side costs more. Clients that
were answered together ask again together, but a loop reads a few of them in each round: a tick that leaves after the first
round takes few along. Waiting for those that are on their way made 16 clients' calls a quarter cheaper (docs/performance.md).
"""

import asyncio
from collections.abc import Callable

ENOUGH = 16  # from here on company saves little, and waiting for more would leave the other side idle
ROUNDS = 12  # at most


class Gathering:
    """After `begin`, calls `go` once: after the first round in which `count` did not grow, with ENOUGH, or after ROUNDS.

    One that is alone waits for one round in which nothing came, some microseconds.
    """

    __slots__ = ("_count", "_go", "_rounds", "_seen", "is_due")

    def __init__(self, count: Callable[[], int], go: Callable[[], None]) -> None:
        self._count, self._go = count, go
        self._rounds = self._seen = 0
        self.is_due = False

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Does nothing while it is under way."""
        if not self.is_due:
            self.is_due = True
            self._rounds = self._seen = 0
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        count = self._count()
        if self._seen < count < ENOUGH and self._rounds < ROUNDS:
            self._seen, self._rounds = count, self._rounds + 1
            loop.call_soon(self._look, loop)
        else:
            self.is_due = False
            self._go()
