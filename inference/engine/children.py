"""Customers' child processes of one worker, and their versions in them.

An organization has one for what somebody waits for, and one for its asynchronous predictions.
"""

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

from inference.engine.batch import refusal
from inference.engine.errors import DeadlineExceeded, EngineError, ModelUnavailable, ProcessDied, ProcessEnded
from inference.engine.process import Child
from inference.engine.residency import Resident, size_of, without_artifact
from inference.engine.source import ArtifactSource
from inference.lanes import Reply, Work

DEATHS = 8  # of an organization's processes within DEATHS_SECONDS; then none is started for it until the first is so long ago
DEATHS_SECONDS = 10.0
MAX_WITHDRAWN = 10_000  # calls that are remembered, since they may still wait for their version to be loaded
KILL_SECONDS = 0.1  # after a deadline: a run that does not end by itself ends with its process


def _late(work: Work) -> Reply:
    return refusal(work, DeadlineExceeded("The deadline passed while the call waited"))


class ChildResident:
    """An organization's own version, in its child process."""

    def __init__(self, source: ArtifactSource, child: Child, max_rows: int, aside: Resident | None = None) -> None:
        """`aside` runs the same version's low-priority work elsewhere, and lives as long as this."""
        self.source, self.child, self.max_rows, self.aside = without_artifact(source), child, max_rows, aside
        self._bytes = size_of(source)
        self.us_per_row = source.ms_per_row * 1000
        self.last_used = time.monotonic()

    @property
    def bytes(self) -> int:
        return self._bytes + (self.aside.bytes if self.aside else 0)

    @property
    def is_busy(self) -> bool:
        return self.child.is_busy or (self.aside is not None and self.aside.is_busy)

    @property
    def is_ended(self) -> bool:
        return self.child.is_ended

    def run(self, works: Sequence[Work]) -> list[Reply | None]:
        """One Reply per call, None for those that are to be run again, by the resident that follows if this one has ended.

        When the process dies under several calls, they come back as suspects. A suspect runs alone, so that only the one
        that kills the process fails.
        """
        replies: list[Reply | None] = []
        for suspect, mine in groupby(range(len(works)), key=lambda place: place if works[place].is_suspect else None):
            chosen = [works[place] for place in mine]
            is_late = suspect is not None and chosen[0].deadline <= time.time()
            replies += [_late(chosen[0])] if is_late else self._run_together(chosen)
        return replies

    def _run_together(self, works: Sequence[Work]) -> list[Reply | None]:
        """The process ends the run itself at the last of their deadlines, and is killed soon after."""
        self.last_used = time.monotonic()
        until = self.last_used + max(work.deadline for work in works) - time.time() + KILL_SECONDS
        try:
            return self.child.run(self.source.version, works, self.max_rows, until)
        except ProcessEnded:
            return [None] * len(works)
        except ProcessDied as error:
            if len(works) == 1:
                return [refusal(works[0], error)]
            for work in works:
                work.is_suspect = True
            return [None] * len(works)
        except EngineError as error:
            return [refusal(work, error) for work in works]

    def close(self) -> None:
        self.child.unload(self.source.version)
        if self.aside is not None:
            self.aside.close()


class Children:
    """The child processes of one worker, at most `limit`; the least recently used idle one makes place for another's."""

    def __init__(
        self,
        limit: int,
        *,
        memory_bytes: int,
        on_ended: Callable[[Child], None],
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.limit, self.memory_bytes, self.providers, self._on_ended = limit, memory_bytes, providers, on_ended
        self._children: dict[tuple[str, bool], Child] = {}  # by organization, and whether for low-priority work
        self._withdrawn: dict[str, None] = {}  # the latest, in their order
        self._starter = ThreadPoolExecutor(1, "children")  # lives as long as they
        self._deaths: dict[str, deque[float]] = {}  # by organization: when its processes died lately, monotonic
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="models-")
        self.folder = Path(self._folder.name) / "empty"
        self.folder.mkdir(mode=0o555)

    def of(self, owner: str, *, is_low: bool = False) -> Child:
        """The organization's process, started if there is none; where there may be only one, it is for all work.

        Raises ModelUnavailable if all places are busy, or if too many of its processes died just now.
        """
        with self._lock:
            place = (owner, is_low and self.limit > 1)
            child = self._children.get(place)
            if child is not None and not child.is_ended:
                return child
            self._check_deaths(owner)
            self._children.pop(place, None)
            leaving = self._leaving()
            self._children[place] = started = self._starter.submit(
                Child,
                owner,
                self.folder,
                memory_bytes=self.memory_bytes,
                is_low=place[1],
                providers=self.providers,
                on_ended=self._ended,
                withdrawn=self._withdrawn,
            ).result()
        if leaving is not None:
            self._on_ended(leaving)
        return started

    def _check_deaths(self, owner: str) -> None:
        """A start costs as much as thousands of calls: a model that dies at each must not make the worker do nothing else."""
        deaths = self._deaths.get(owner)
        if deaths and len(deaths) == DEATHS and deaths[0] > time.monotonic() - DEATHS_SECONDS:
            raise ModelUnavailable(f"the organization's models ended their process {DEATHS} times within {DEATHS_SECONDS:g} s")

    def _ended(self, child: Child) -> None:
        if child.has_died:
            with self._lock:
                self._deaths.setdefault(child.owner, deque(maxlen=DEATHS)).append(time.monotonic())
        self._on_ended(child)

    def _leaving(self) -> Child | None:
        """Make place for one more; the caller tells of the one that left."""
        self._children = {place: child for place, child in self._children.items() if not child.is_ended}
        if len(self._children) < self.limit:
            return None
        idle = [child for child in self._children.values() if not child.is_busy]
        if not idle:
            raise ModelUnavailable("too many organizations' own models run here now")
        child = min(idle, key=lambda child: child.last_used)
        del self._children[child.owner, child.is_low]
        child.close()
        return child

    def withdraw(self, call: str) -> None:
        """Nobody waits for `call` any more."""
        with self._lock:
            self._withdrawn[call] = None
            if len(self._withdrawn) > MAX_WITHDRAWN:
                del self._withdrawn[next(iter(self._withdrawn))]
            children = list(self._children.values())
        for child in children:
            child.withdraw(call)

    def end_idle(self, seconds: float) -> None:
        """End those that nobody asked for so long."""
        before = time.monotonic() - seconds
        with self._lock:
            idle = [child for child in self._children.values() if child.last_used < before and not child.is_busy]
            for child in idle:
                del self._children[child.owner, child.is_low]
            since = time.monotonic() - DEATHS_SECONDS
            self._deaths = {owner: deaths for owner, deaths in self._deaths.items() if deaths[-1] > since}
        for child in idle:
            child.kill()

    def count(self) -> int:
        with self._lock:
            return sum(not child.is_ended for child in self._children.values())

    def close(self) -> None:
        with self._lock:
            children, self._children = list(self._children.values()), {}
        for child in children:
            child.close()
        self._starter.shutdown()
        self._folder.cleanup()
