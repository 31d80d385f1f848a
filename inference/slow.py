"""Calls that are slow each on its own: they wait in lanes of their own, and run in all slots of a pump but one.

So a call that is not slow never waits behind several that are, whoever sent them, and always finds a slot soon.
"""

import threading
from collections.abc import Sequence

SLOW_US = 50_000  # no run is planned to take longer, unless one call alone does; such calls leave a slot to the others
MANY_ROWS = 1000


def has_slow_lanes(*, takes_items: bool, ms_per_row: float) -> bool:
    """Whether a version's calls may be so different that some are slow: it prepares texts or images, or many rows take long.

    Others have no slow lanes, since workers ask all lanes that there are at each pop.
    """
    return takes_items or ms_per_row * 1000 * MANY_ROWS > SLOW_US


def slow_places(slots: int) -> int:
    """How many slow calls a pump with so many slots runs at once."""
    return max(1, slots - 1)


class SlowPlaces:
    """The places, and the lanes that wait for one because their next call is slow, in the order in which they came.

    Any thread may call; but only one at a time takes places and pops.
    """

    def __init__(self, slots: int) -> None:
        self._free = slow_places(slots)
        self._waiting: dict[str, None] = {}
        self._lock = threading.Lock()

    def take(self, lane: str) -> bool:
        """Whether a slow call of the lane may run now; if not, the lane waits."""
        with self._lock:
            if self._free:
                self._free -= 1
                self._waiting.pop(lane, None)
                return True
            self._waiting.setdefault(lane)
            return False

    def free(self) -> bool:
        """A slow call has ended. Whether lanes wait."""
        with self._lock:
            self._free += 1
            return bool(self._waiting)

    def lanes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those that are not to be asked now, and those to be asked before all others, in their order."""
        with self._lock:
            waiting = tuple(self._waiting)
            return ((), waiting) if self._free else (waiting, ())

    def forget(self, lanes: Sequence[str]) -> None:
        """They were asked, and are empty: they wait no more."""
        with self._lock:
            for lane in lanes:
                self._waiting.pop(lane, None)
