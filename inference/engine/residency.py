"""Which versions are loaded: once each, within a bound of measured bytes, the least recently used leaving first."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from inference.engine.batch import run_batch
from inference.engine.errors import ModelUnavailable
from inference.engine.model import Model
from inference.engine.recorder import Recorder
from inference.engine.source import ArtifactSource, size_of, without_artifact
from inference.lanes import Reply, Work

log = logging.getLogger(__name__)


class Resident(Protocol):
    """A loaded version, wherever it runs. `last_used` is on the monotonic clock; a busy one is not evicted, an ended one can
    answer no more. `run` gives None for a call that is to be run again."""

    source: ArtifactSource  # without the artifact's bytes
    last_used: float

    @property
    def bytes(self) -> int: ...

    @property
    def is_busy(self) -> bool: ...

    @property
    def is_ended(self) -> bool: ...

    @property
    def us_per_row(self) -> float: ...

    def run(self, works: Sequence[Work]) -> Sequence[Reply | None]: ...

    def close(self) -> None: ...


class LocalResident:
    """A catalogue version, run in this process. A run under way keeps its session alive after `close`."""

    is_busy = is_ended = False

    def __init__(self, source: ArtifactSource, model: Model, max_rows: int, recorder: Recorder) -> None:
        self.bytes = size_of(source)
        self.source, self.model, self.max_rows, self._recorder = without_artifact(source), model, max_rows, recorder
        self.last_used = time.monotonic()

    @property
    def us_per_row(self) -> float:
        return self.model.us_per_row

    def run(self, works: Sequence[Work]) -> list[Reply]:
        self.last_used = time.monotonic()
        place = self._recorder.begin(self.source.version)
        try:
            return run_batch(self.model, works, max_rows=self.max_rows, is_shared=not self.source.is_private)
        finally:
            self._recorder.end(place)

    def close(self) -> None:
        """Nothing to do: the last run's reference ends the session."""


class Residency:
    """The loaded versions of one worker. Any thread may call; `on_evict` is called before a version is closed.

    Versions in child processes do not count here if they have memory of their own (inference/engine/budget.py).
    """

    def __init__(self, limit_bytes: int, on_evict: Callable[[Resident], None], *, counts_private: bool = True) -> None:
        self.limit_bytes, self._on_evict, self._counts_private = limit_bytes, on_evict, counts_private
        self._residents: dict[str, Resident] = {}
        self._loading: dict[str, Future[Resident]] = {}
        self._reserved: dict[str, int] = {}  # bytes promised to loads under way
        self._lock = threading.Lock()

    def get(self, version: str) -> Resident | None:
        return self._residents.get(version)

    def all(self) -> list[Resident]:
        with self._lock:
            return list(self._residents.values())

    @property
    def bytes(self) -> int:
        return sum(resident.bytes for resident in self.all())

    def load(
        self, version: str, fetch: Callable[[], ArtifactSource], open_resident: Callable[[ArtifactSource], Resident]
    ) -> Resident:
        """The resident of `version`, loaded if it is not there; several callers wait for one load.

        Raises what `fetch` and `open_resident` raise, and ModelUnavailable if there is no room for it.
        """
        with self._lock:
            if resident := self._residents.get(version):
                return resident
            future = self._loading.get(version)
            is_mine = future is None
            if future is None:
                future = self._loading[version] = Future()
        if not is_mine:
            return future.result()
        try:
            source = fetch()
            if self._counts(source):
                self._make_room(version, size_of(source))
            resident = open_resident(source)
        except BaseException as error:
            self._ended(version)
            future.set_exception(error)
            raise
        self._ended(version, resident)
        future.set_result(resident)
        return resident

    def _ended(self, version: str, resident: Resident | None = None) -> None:
        with self._lock:
            if resident is not None:
                self._residents[version] = resident
            del self._loading[version]
            self._reserved.pop(version, None)

    def _make_room(self, version: str, size: int) -> None:
        """Evict until `size` more bytes fit, and reserve them."""
        if size > self.limit_bytes:
            raise ModelUnavailable(f"the model takes {size} bytes; a worker keeps at most {self.limit_bytes}")
        evicted = []
        with self._lock:
            counted = [resident for resident in self._residents.values() if self._counts(resident.source)]
            used = sum(resident.bytes for resident in counted) + sum(self._reserved.values())
            for resident in sorted(counted, key=lambda resident: resident.last_used):
                if used + size <= self.limit_bytes:
                    break
                if not resident.is_busy:
                    evicted.append(self._residents.pop(resident.source.version))
                    used -= resident.bytes
            if is_full := used + size > self.limit_bytes:
                self._residents |= {resident.source.version: resident for resident in evicted}
            else:
                self._reserved[version] = size
        if is_full:
            raise ModelUnavailable("no memory is free for the model now")
        for resident in evicted:
            self._end(resident)

    def _counts(self, source: ArtifactSource) -> bool:
        return self._counts_private or not source.is_apart

    def evict(self, version: str) -> None:
        """Let go of a version, if it is there."""
        with self._lock:
            resident = self._residents.pop(version, None)
        if resident is not None:
            self._end(resident)

    def _end(self, resident: Resident) -> None:
        log.info("model %s leaves memory", resident.source.version)
        self._on_evict(resident)
        resident.close()
