"""Calls that are slow each on its own run in all slots of a pump but one, so that a fast call always finds a slot soon."""

import threading


class SlowPlaces:
    """`held` are the versions whose next call is slow and finds no place: their lanes are not asked until one is free."""

    def __init__(self, slots: int) -> None:
        self._free = max(1, slots - 1)
        self._lock = threading.Lock()
        self.held: frozenset[str] = frozenset()

    def take(self, version: str) -> bool:
        """Whether a slow call of the version may run now; if not, it is held."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self.held |= {version}
            return False

    def free(self) -> bool:
        """A slow call has ended. Whether versions were held, which are not any more."""
        with self._lock:
            self._free += 1
            were_held, self.held = bool(self.held), frozenset()
            return were_held
