"""Work for versions that a worker has not loaded: it waits here while they are loaded, and is refused if they cannot be.

Organizations' own models may take long to load, and no organization shall decide how long others wait. So loads take turns
(inference/loads.py), and one organization cannot close the pool, which all share. However many of its versions wait, they count
once. Of its calls for them OWN_BYTES wait here and more are refused, so that it takes several organizations to reach MAX_BYTES;
only what is run again, since its process ended under it, is always taken.

A version whose calls have all passed their deadline when its turn comes is not loaded.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from redis import Redis
from redis.exceptions import RedisError

from inference.engine.errors import MemoryExhausted, ModelUnavailable
from inference.lanes import Reply
from inference.loads import LOADERS, Loads
from inference.pump import BYTES_AT_ONCE, Taken, lane_of
from inference.replies import messages

log = logging.getLogger(__name__)

MAX_PLACES = 16  # that wait for a loader or have one; beyond these, or MAX_BYTES of calls, the pool is left to other workers
MAX_BYTES = 2 * BYTES_AT_ONCE  # of calls that wait
OWN_BYTES = BYTES_AT_ONCE // 2  # of them, of one organization's own models, beyond which no more are taken from the pool
FAILURE_SECONDS = 5.0  # a version that could not be loaded is refused at once for so long
NO_MEMORY_SECONDS = 1.0  # the same where memory was short, which may come free at any time
TOO_MUCH = "Too many bytes of calls wait until the organization's own models are loaded; try again soon"
TOO_LATE = "The deadline passed while the model waited to be loaded"


class Cold:
    """`load(version, owner)` is called by a loader; it loads the version and calls `push`, or raises ModelUnavailable.

    `pools`: the normal and the low-priority one, where work goes that is given back.
    """

    def __init__(self, name: str, client: Redis, pools: tuple[str, str], load: Callable[[str, str], None]) -> None:
        self._client, self._pools, self._load = client, pools, load
        self._pending: dict[str, list[Taken]] = {}  # by version
        self._bytes: Counter[str] = Counter()  # of what is pending: by organization for own models, "" for the catalogue's
        self._failures: dict[str, tuple[float, ModelUnavailable]] = {}  # version → until when (monotonic), why
        self._lock = threading.Lock()  # of the three above
        self._loads = Loads()
        self._threads = [
            threading.Thread(target=self._load_on, name=f"{name}/load-{number}", daemon=True) for number in range(LOADERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Load no more; does not wait for what is being loaded."""
        self._loads.end()

    @property
    def has_room(self) -> bool:
        with self._lock:
            return self._loads.places < MAX_PLACES and self._bytes.total() < MAX_BYTES

    @property
    def count(self) -> int:
        """How many versions are being loaded or wait for it."""
        return len(self._pending)

    def take(self, batch: list[Taken]) -> list[tuple[Taken, Reply]]:
        """Work for versions that the pump which popped it does not serve: load them, or hand it to the pump that does."""
        refused: list[tuple[Taken, Reply]] = []
        now = time.monotonic()
        for taken in batch:
            work, version = taken.work, taken.work.version
            with self._lock:
                failure = self._failures.get(version)
                if failure and failure[0] > now:
                    refused.append((taken, Reply(work.number, failure[1].code, str(failure[1]))))
                    continue
                if taken.key in self._pools and not work.is_public and self._bytes[work.owner] >= OWN_BYTES:
                    refused.append((taken, Reply(work.number, "capacity_exhausted", TOO_MUCH)))
                    continue
                is_new = version not in self._pending
                self._pending.setdefault(version, []).append(taken)
                self._bytes[_account_of(taken)] += len(taken.frame)
            if is_new:  # a loaded one is only looked up, and its work goes to its lane
                self._loads.put(version, work.owner, is_public=work.is_public)
        return refused

    def push(self, version: str, *, to_lane: bool) -> None:
        """Put what waits for a version in front of its lanes, or back into the pool, in the order in which it came."""
        frames: dict[str, list[bytes]] = {}
        for taken in self._take_pending(version):
            key = lane_of(taken) if to_lane else self._pools[taken.key.endswith(":low")]
            frames.setdefault(key, []).append(taken.frame)
        pipeline = self._client.pipeline(transaction=True)  # at once: a pump may be waiting at these lists
        for key, mine in frames.items():
            pipeline.lpush(key, *reversed(mine))
        pipeline.execute()

    def give_back(self) -> None:
        """All that waits, into the pools. Raises RedisError."""
        for version in list(self._pending):
            self.push(version, to_lane=False)

    def forget_failures(self) -> None:
        """Those that are over."""
        with self._lock:
            now = time.monotonic()
            self._failures = {version: failure for version, failure in self._failures.items() if failure[0] > now}

    def _load_on(self) -> None:
        while (load := self._loads.take()) is not None:
            version = load.version
            try:
                if owner := self._owner_of(version):
                    self._load_one(version, owner)
            except RedisError as error:
                log.warning("the lanes server was lost while %s was loaded: %s", version, error)
                self._take_pending(version)  # its work went with the server, which keeps nothing
            except Exception:  # one version must not take the loader with it
                log.exception("loading %s failed", version)
                with suppress(RedisError):  # then nobody hears it, and the loader must live on
                    self._refuse(version, ModelUnavailable("The model cannot be loaded now"))
            finally:
                self._loads.done(load)

    def _owner_of(self, version: str) -> str:
        """Whose it is; "" if nobody waits for it any more, whose calls are answered then."""
        with self._lock:
            waiting = self._pending.get(version, [])
            if any(taken.work.deadline > time.time() for taken in waiting):
                return waiting[0].work.owner
            late = self._pop_pending(version)
        self._answer([(taken, Reply(taken.work.number, "deadline_exceeded", TOO_LATE)) for taken in late])
        return ""

    def _load_one(self, version: str, owner: str) -> None:
        try:
            self._load(version, owner)
        except ModelUnavailable as error:
            log.warning("model %s is not loaded: %s", version, error)
            self._refuse(version, error)

    def _take_pending(self, version: str) -> list[Taken]:
        """What waits for it, which now waits no more."""
        with self._lock:
            return self._pop_pending(version)

    def _pop_pending(self, version: str) -> list[Taken]:
        """Under the lock."""
        waiting = self._pending.pop(version, [])
        for taken in waiting:
            self._bytes[_account_of(taken)] -= len(taken.frame)
        self._bytes = +self._bytes  # without those that have nothing
        return waiting

    def _refuse(self, version: str, error: ModelUnavailable) -> None:
        """Answer all that waits for a version which cannot be loaded, and remember that for a moment."""
        seconds = NO_MEMORY_SECONDS if isinstance(error, MemoryExhausted) else FAILURE_SECONDS
        with self._lock:
            self._failures[version] = (time.monotonic() + seconds, error)
            waiting = self._pop_pending(version)
        self._answer([(taken, Reply(taken.work.number, error.code, str(error))) for taken in waiting])

    def _answer(self, replies: list[tuple[Taken, Reply]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for channel, message in messages([(taken.work.gateway, reply) for taken, reply in replies]):
            pipeline.publish(channel, message)
        pipeline.execute()


def _account_of(taken: Taken) -> str:
    return "" if taken.work.is_public else taken.work.owner
