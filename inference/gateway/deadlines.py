"""When calls are late: one timer for all of them, since nearly every call ends long before its own would ring."""

import asyncio
import logging
from array import array
from collections.abc import Callable

log = logging.getLogger(__name__)

STEP = 0.02  # seconds that a call may be told too late


class Deadlines:
    """By number of step: the numbers of calls that are late then. Calls that have ended meanwhile are still told of."""

    def __init__(self, on_late: Callable[[int], None]) -> None:
        self._on_late = on_late
        self._late: dict[int, array[int]] = {}
        self._done = 0  # the last step that was told
        self._is_set = False

    def add(self, number: int, at: float, loop: asyncio.AbstractEventLoop) -> None:
        """Tell of call `number` once the time of `loop` is `at`, never before."""
        step = int(at / STEP) + 1
        try:
            self._late[step].append(number)
        except KeyError:
            self._late[step] = array("q", (number,))
            if not self._is_set:
                self._is_set = True
                self._done = int(loop.time() / STEP)
                loop.call_later(STEP, self._look, loop)

    def _tell(self, number: int) -> None:
        try:
            self._on_late(number)
        except Exception:  # one call's fault must not take the others' deadlines with it
            log.exception("the deadline of call %d was not told", number)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(loop.time() / STEP)
        for step in range(self._done + 1, now + 1):
            for number in self._late.pop(step, ()):
                self._tell(number)
        self._done = now
        self._is_set = bool(self._late)
        if self._is_set:
            loop.call_later(STEP, self._look, loop)
