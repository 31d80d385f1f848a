"""Catalogue versions that ran in a worker when it died. One of them may have killed it, and would kill the next: so for some
time each runs in a process of its own, where a crash is found and answered and hurts nobody else.

They are known at the lanes server, so to all workers, and outlive any of them. Whoever looks first after a death, another
worker of the machine or the successor at its start, names them.
"""

import logging
import time
from typing import Any

from redis import Redis

from inference.engine.recorder import Recorder

log = logging.getLogger(__name__)

SUSPECTS = "suspects"  # sorted set of version ids on the lanes server, scored with the epoch second until which they are
SECONDS = 600.0  # since the last death under it, of a worker or of its own process; twice as long for each further worker's
MOST_SECONDS = 86_400.0
REMEMBERED_SECONDS = 7 * 86_400  # deaths of workers under a version


class Suspects:
    """Of one worker. Any thread may call; all methods but `died` ask the lanes server and raise RedisError."""

    def __init__(self, client: Redis, recorder: Recorder) -> None:
        self._client, self._recorder = client, recorder
        self._died: set[str] = set()
        self.known: frozenset[str] = frozenset()  # as last looked

    def look(self) -> None:
        """Name those of workers that have died, go on suspecting those whose own process has died, and learn of all."""
        self._recorder.bury(self._accuse)
        while self._died:
            version = self._died.pop()
            self._suspect(version, int(self._client.get(_deaths_key(version)) or 1))
        now = time.time()
        self._client.zremrangebyscore(SUSPECTS, "-inf", now)
        found: Any = self._client.zrange(SUSPECTS, 0, -1)  # redis-py's type for all kinds of clients
        self.known = frozenset(version.decode() for version in found)

    def is_suspect(self, version: str) -> bool:
        """Now, whatever was known before."""
        until = self._client.zscore(SUSPECTS, version)
        return until is not None and float(until) > time.time()

    def died(self, version: str) -> None:
        """The process in which a suspect ran has died under it."""
        self._died.add(version)

    def _accuse(self, versions: set[str]) -> None:
        for version in versions:
            deaths = int(self._client.incr(_deaths_key(version)))
            self._client.expire(_deaths_key(version), REMEMBERED_SECONDS)
            seconds = self._suspect(version, deaths)
            log.error(
                "a worker died while it ran the catalogue's version %s (%s times): it runs in a process of its own for %.0f s",
                version,
                deaths,
                seconds,
            )

    def _suspect(self, version: str, deaths: int) -> float:
        """For how many seconds."""
        seconds: float = min(MOST_SECONDS, SECONDS * 2 ** min(deaths - 1, 16))
        self._client.zadd(SUSPECTS, {version: time.time() + seconds}, gt=True)
        return seconds


def _deaths_key(version: str) -> str:
    """How many workers have died lately while they ran it."""
    return f"worker-deaths:{version}"
