"""Calls that are slow each on its own: they wait in lanes of their own, and run in all slots of a pump but one.

So a call that is not slow never waits behind several that are, whoever sent them, and always finds a slot soon.
"""

import threading

SLOW_US = 50_000  # no run is planned to take longer, unless one call alone does; such calls leave a slot to the others
MANY_ROWS = 1000


def has_slow_lanes(*, takes_items: bool, ms_per_row: float) -> bool:
    """Whether a version's calls may be so different that some are slow: it prepares texts or images, or many rows take long.

    Others have no slow lanes, since workers ask all lanes that there are at each pop.
    """
    return takes_items or ms_per_row * 1000 * MANY_ROWS > SLOW_US


class SlowPlaces:
    """`held` are the lanes whose next call is slow and finds no place: they are not asked until one is free."""

    def __init__(self, slots: int) -> None:
        self._free = max(1, slots - 1)
        self._lock = threading.Lock()
        self.held: frozenset[str] = frozenset()

    def take(self, lane: str) -> bool:
        """Whether a slow call of the lane may run now; if not, the lane is held."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self.held |= {lane}
            return False

    def free(self) -> bool:
        """A slow call has ended. Whether lanes were held, which are not any more."""
        with self._lock:
            self._free += 1
            were_held, self.held = bool(self.held), frozenset()
            return were_held
