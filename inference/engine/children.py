"""Customers' child processes of one worker.

An organization has one for what somebody waits for, and one for its asynchronous predictions.
"""

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

from inference.engine.budget import Budget, MemoryReport, ProcessReport, Taken
from inference.engine.errors import MemoryExhausted, ModelUnavailable
from inference.engine.fitting import overgrown, room_for
from inference.engine.memory import held_bytes
from inference.engine.process import BASE_BYTES, Child, needs_to_load
from inference.engine.source import ArtifactSource

DEATHS = 8  # of an organization's processes within DEATHS_SECONDS; then none is started for it until the first is so long ago
DEATHS_SECONDS = 10.0
MAX_WITHDRAWN = 10_000  # calls that are remembered, since they may still wait for their version to be loaded
VIRTUAL_BYTES = 512 << 20  # of address space that a process has beyond what it holds; 300 MiB measured
ASKED_SECONDS = 1.0  # other workers are asked so long to end idle processes; they look several times meanwhile


class Children:
    """The child processes of one worker, at most `limit`, within the memory of `budget`, which other workers share.

    The least recently used idle ones make place for another's. Call `look` several times a second.
    """

    def __init__(
        self,
        limit: int,
        *,
        memory_bytes: int,
        budget: Budget,
        on_ended: Callable[[Child], None],
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """`memory_bytes`: address space of one process at most, which the kernel watches over."""
        self.limit, self.budget, self.providers, self._on_ended = limit, budget, providers, on_ended
        self.memory_bytes = min(memory_bytes, budget.share + VIRTUAL_BYTES)
        self.refused = self.ended_over_memory = 0  # loads, and processes, since the start
        self._wanted, self._wanted_until = 0, 0.0  # bytes that other workers' idle processes might free, monotonic
        self._children: dict[tuple[str, bool], Child] = {}  # by organization, and whether for low-priority work
        self._withdrawn: dict[str, None] = {}  # the latest, in their order
        self._starter = ThreadPoolExecutor(1, "children")  # lives as long as they
        self._deaths: dict[str, deque[float]] = {}  # by organization: when its processes died lately, monotonic
        self._is_closed = False
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="models-")
        self.folder = Path(self._folder.name) / "empty"
        self.folder.mkdir(mode=0o555)

    def of(self, owner: str, *, is_low: bool = False, loads: ArtifactSource | None = None) -> Child:
        """The organization's process, started if there is none; where there may be only one, it is for all work.

        With `loads`, which is then to be loaded into it, there is memory for that version. Raises MemoryExhausted, and
        ModelUnavailable if all places are busy, if too many of its processes died just now, or after `close`.
        """
        place = (owner, is_low and self.limit > 1)
        try:
            try:
                return self._take(place, loads)
            except MemoryExhausted as error:
                if not self._ask_others(error.lacking):
                    raise
            time.sleep(ASKED_SECONDS / 2)
            return self._take(place, loads)
        except MemoryExhausted:
            self.refused += 1
            raise

    def _take(self, place: tuple[str, bool], loads: ArtifactSource | None) -> Child:
        with self._lock:
            if self._is_closed:  # a load that began before may ask now
                raise ModelUnavailable("the worker is ending")
            self._children = {place: child for place, child in self._children.items() if not child.is_ended}
            child = self._children.get(place)
            if child is None:
                self._check_deaths(place[0])
            new = loads if loads is not None and (child is None or loads.version not in child.given) else None
            if child is not None and new is None:
                return child
            with self.budget.look() as others:
                leaving = self._leaving(place[0], child, needs_to_load(new) if new is not None else 0, others)
                for each in leaving:
                    del self._children[each.owner, each.is_low]
                    each.close()
                if child is None or child in leaving:
                    child = self._children[place] = self._start(place)
                if new is not None:
                    child.give(new)
                self._tell()
        for each in leaving:
            self._on_ended(each)
        return child

    def _start(self, place: tuple[str, bool]) -> Child:
        return self._starter.submit(
            Child,
            place[0],
            self.folder,
            memory_bytes=self.memory_bytes,
            is_low=place[1],
            providers=self.providers,
            on_ended=self._ended,
            withdrawn=self._withdrawn,
        ).result()

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

    # --- room

    def _leaving(self, owner: str, child: Child | None, needed: int, others: Taken) -> list[Child]:
        """Who makes place for `needed` bytes more in `child`, or in a new process.

        It may be `child` itself, if that is idle and its other versions leave no room: it begins anew with this one.
        """
        processes = list(self._children.values())
        if child is not None:
            with suppress(MemoryExhausted) if not child.is_busy else nullcontext():
                return room_for(needed, owner, child, processes, others, self.budget)
        leaving = room_for(needed + BASE_BYTES, owner, None, processes, others, self.budget)
        if len(processes) - len(leaving) >= self.limit:
            idle = [each for each in processes if not each.is_busy and each not in leaving]
            if not idle:
                raise ModelUnavailable("too many organizations' own models run here now")
            leaving.append(min(idle, key=lambda each: each.last_used))
        return leaving

    def look(self) -> None:
        """See what each process holds, and end what must end: more is held than there is, or another worker wants it."""
        with self._lock:
            children = [child for child in self._children.values() if not child.is_ended]
            for child in children:
                child.held = held_bytes(child.process.pid)
            with self.budget.look() as others:
                idle, grown = overgrown(children, others, self.budget)
                for child in [*idle, *(child for child, _ in grown)]:
                    del self._children[child.owner, child.is_low]
                self._tell()
        self.ended_over_memory += len(grown)
        ended = [child for child, why in grown if child.end_over_memory(why)] + [child for child in idle if child.close()]
        if ended:  # told in another thread: the lanes server may be slow to answer, and others grow meanwhile
            threading.Thread(target=self._tell_ended, args=(ended,), name="ended", daemon=True).start()

    def _tell_ended(self, children: list[Child]) -> None:
        for child in children:
            self._ended(child)

    def _ask_others(self, lacking: int) -> bool:
        """Whether there are other workers, which are asked to end idle processes of so many bytes, soon."""
        with self._lock, self.budget.look() as others:
            if not lacking or not others.bytes:
                return False
            self._wanted, self._wanted_until = lacking, time.monotonic() + ASKED_SECONDS
            self._tell()
            return True

    def _tell(self) -> None:
        """Under both locks."""
        if time.monotonic() > self._wanted_until:
            self._wanted = 0
        children = [child for child in self._children.values() if not child.is_ended]
        self.budget.tell(
            Taken(sum(child.taken for child in children), max([child.excess for child in children], default=0), self._wanted)
        )

    def memory(self) -> MemoryReport:
        """For the worker's report."""
        with self._lock, self.budget.look() as others:
            processes = [
                ProcessReport(child.owner, child.is_low, child.is_busy, child.taken, child.held)
                for child in self._children.values()
                if not child.is_ended
            ]
        return MemoryReport(
            limit=self.budget.limit,
            share=self.budget.share,
            taken=sum(process.taken for process in processes),
            held=sum(process.held for process in processes),
            others=others.bytes,
            refused=self.refused,
            ended=self.ended_over_memory,
            processes=processes,
        )

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
            self._is_closed = True
            children, self._children = list(self._children.values()), {}
        for child in children:
            child.close()
        self.budget.close()
        self._starter.shutdown()
        self._folder.cleanup()
