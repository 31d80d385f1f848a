"""Calls beyond their organization's share of a longer model, or of the slow places.

They wait here, in their order, until one of theirs has ended.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from inference.gateway.call import Call

LOOK_EVERY = 0.05  # seconds: places may come free elsewhere, and shares grow when others stop calling
PUSHED_AT_ONCE = 4  # at each look


class Turns:
    """By version, or by hardware if they are slow, and organization.

    `push` asks the lanes again, from now on without the call's frame, which is sent once it is admitted; who is refused again
    comes back by `wait`.
    """

    def __init__(self, push: Callable[[Call], None]) -> None:
        self._push = push
        self._waiting: dict[tuple[str, str], deque[Call]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_awaited(self, call: Call) -> bool:
        """Whether others like it wait already: it may not pass them."""
        return bool(self._waiting) and _group(call) in self._waiting

    def has_room(self, call: Call, most: int) -> bool:
        """Whether less than `most` wait where it would."""
        return len(self._waiting.get(_group(call), ())) < most

    def wait(self, call: Call) -> None:
        """Those that were asked for before stay before those that came later."""
        queue = self._waiting.setdefault(_group(call), deque())
        at = next((place for place, other in enumerate(queue) if other.number > call.number), len(queue))
        queue.insert(at, call)
        call.has_waited = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def go_on(self, call: Call) -> None:
        """`call` has ended: the next like it may try."""
        if self._waiting and (group := _group(call)) in self._waiting:
            self._try(group, 1)

    def _look(self) -> None:
        self._timer = None
        for group in list(self._waiting):
            self._try(group, PUSHED_AT_ONCE)
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _try(self, group: tuple[str, str], count: int) -> None:
        queue = self._waiting[group]
        while queue and count:
            call = queue.popleft()
            if not call.is_ended:
                self._push(call)
                count -= 1
        if not queue:
            del self._waiting[group]


def _group(call: Call) -> tuple[str, str]:
    """By what they share: the slow places, or the version."""
    shared = call.version.hardware if call.takes_slow_place else call.version.id
    return shared, call.key.organization
