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


class Bytes:
    """Room for so many bytes in this process, and for so many of one organization; who is alone may have more."""

    def __init__(self, *, overall: int, per_organization: int) -> None:
        self._overall, self._per_organization = overall, per_organization
        self._changed = threading.Condition()
        self._taken: Counter[UUID] = Counter()

    @contextmanager
    def take(self, organization_id: UUID, size: int, *, within: float) -> Iterator[bool]:
        """Whether there was room for `size` bytes within so many seconds; it is free again at the end."""
        with self._changed:
            is_mine = self._changed.wait_for(lambda: self._fits(organization_id, size), within)
            self._taken[organization_id] += size * is_mine
        try:
            yield is_mine
        finally:
            with self._changed:
                self._taken[organization_id] -= size * is_mine
                if not self._taken[organization_id]:
                    del self._taken[organization_id]
                self._changed.notify_all()

    def _fits(self, organization_id: UUID, size: int) -> bool:
        mine, all_ = self._taken.get(organization_id, 0), self._taken.total()
        return (not mine or mine + size <= self._per_organization) and (not all_ or all_ + size <= self._overall)
