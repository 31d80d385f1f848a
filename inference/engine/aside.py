"""An organization's own version in a second process of it: what may take long does not hold up what is waited for."""

import time
from collections.abc import Callable, Sequence

from inference.engine.batch import refusal
from inference.engine.child_resident import ChildResident
from inference.engine.errors import EngineError
from inference.engine.source import ArtifactSource
from inference.lanes import Reply, Work


class Aside:
    """Beside a resident and served as long as it, for its low-priority lane only. The first call loads it, one by one.

    `open_resident` raises ModelUnavailable.
    """

    def __init__(self, source: ArtifactSource, open_resident: Callable[[], ChildResident]) -> None:
        self.source, self._open = source, open_resident
        self.us_per_row = source.ms_per_row * 1000
        self.last_used = time.monotonic()
        self._resident: ChildResident | None = None

    @property
    def bytes(self) -> int:
        return 0 if self.is_ended or self._resident is None else self._resident.bytes

    @property
    def is_busy(self) -> bool:
        return self._resident is not None and self._resident.is_busy

    @property
    def is_ended(self) -> bool:
        return self._resident is not None and self._resident.is_ended

    def run(self, works: Sequence[Work]) -> list[Reply | None]:
        self.last_used = time.monotonic()
        try:
            if self._resident is None or self._resident.is_ended:
                self._resident = self._open()
        except EngineError as error:
            return [refusal(work, error) for work in works]
        return self._resident.run(works)

    def close(self) -> None:
        """What runs is not ended for it: it has been left by a process that died, and is found again by who follows."""
        if self._resident is not None and not self._resident.is_busy:
            self._resident.close()
