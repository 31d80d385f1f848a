"""Work that is too long for the loop, in one thread, so that it takes at most one core from the small calls.

Organizations take turns, and what waits is bounded, in all and for each of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from inference.gateway import refusals

MAX_JOBS, MAX_BYTES = 256, 256 << 20  # that one thread has to do, the one under way included
SHARE_JOBS, SHARE_BYTES = 64, 64 << 20  # of these for one organization; a single job may be larger
R = TypeVar("R")


class Job(NamedTuple):
    organization: str
    size: int
    work: Callable[[], Any]  # Any: what `run` promises for it
    outcome: "asyncio.Future[Any]"


class Held:
    """How much waits or runs."""

    __slots__ = ("jobs", "size")

    def __init__(self) -> None:
        self.jobs = self.size = 0

    def add(self, job: Job) -> None:
        self.jobs += 1
        self.size += job.size

    def remove(self, job: Job) -> None:
        self.jobs -= 1
        self.size -= job.size


class Thread:
    """One thread and what waits for it. All but the work itself happens on the loop."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: dict[str, deque[Job]] = {}  # by organization; the first in it is next
        self._all = Held()
        self._each: dict[str, Held] = {}
        self._is_busy = False

    def run(self, organization: str, size: int, work: Callable[[], R]) -> "asyncio.Future[R]":
        """Do `work`, on `size` bytes, when it is its turn; one whose future is cancelled before that is left out.

        Raises ConcurrencyLimited where the organization's share is used up, CapacityExhausted where all is.
        """
        held = self._each.get(organization) or Held()
        if held.jobs and (held.jobs >= SHARE_JOBS or held.size + size > SHARE_BYTES):
            raise refusals.too_large_a_share()
        if self._all.jobs and (self._all.jobs >= MAX_JOBS or self._all.size + size > MAX_BYTES):
            raise refusals.too_much()
        job = Job(organization, size, work, asyncio.get_running_loop().create_future())
        self._each[organization] = held
        held.add(job)
        self._all.add(job)
        self._waiting.setdefault(organization, deque()).append(job)
        if not self._is_busy:
            self._next()
        return job.outcome

    def close(self) -> None:
        """Begin nothing more; what is under way ends."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        while self._waiting:
            job = self._pop()
            if job.outcome.cancelled():
                self._forget(job)
                continue
            self._is_busy = True
            running = asyncio.get_running_loop().run_in_executor(self._executor, job.work)
            running.add_done_callback(lambda done, job=job: self._done(job, done))  # type: ignore[misc]  # mypy sees no default
            return

    def _pop(self) -> Job:
        """The next job; its organization's other ones wait until all others had a turn."""
        organization = next(iter(self._waiting))
        jobs = self._waiting.pop(organization)
        job = jobs.popleft()
        if jobs:
            self._waiting[organization] = jobs
        return job

    def _done(self, job: Job, running: "asyncio.Future[Any]") -> None:  # Any: as in Job
        self._is_busy = False
        self._forget(job)
        self._next()
        if job.outcome.cancelled():
            running.exception()
        elif error := running.exception():
            job.outcome.set_exception(error)
        else:
            job.outcome.set_result(running.result())

    def _forget(self, job: Job) -> None:
        self._all.remove(job)
        held = self._each[job.organization]
        held.remove(job)
        if not held.jobs:
            del self._each[job.organization]
