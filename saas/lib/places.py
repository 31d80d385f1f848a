"""Places in this process that organizations share, for work that holds a thread for long."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID


class Places:
    """Room for so many in this process, and for so many of one organization."""

    def __init__(self, *, overall: int, per_organization: int) -> None:
        self._overall, self._per_organization = overall, per_organization
        self._lock = threading.Lock()
        self.taken: Counter[UUID] = Counter()

    @contextmanager
    def take(self, organization_id: UUID) -> Iterator[bool]:
        """Whether there was a place; it is free again at the end."""
        with self._lock:
            is_mine = self.taken.total() < self._overall and self.taken[organization_id] < self._per_organization
            self.taken[organization_id] += is_mine
        try:
            yield is_mine
        finally:
            with self._lock:
                self.taken[organization_id] -= is_mine
                if not self.taken[organization_id]:
                    del self.taken[organization_id]
