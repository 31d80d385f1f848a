"""The reaper: undoes what a dead gateway left open. Any number of them may run.

A session is dead when its beat has stood still for STILL_SECONDS on this reaper's own clock while the state server answered
promptly all the time: a server that was stopped, or a reaper that was, proves nothing about gateways.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import redis

from inference.books.scripts import JOURNAL, REAP, TAKE, WATCH, open_key, reaping_key
from saas.lib.valkey import sync_client

log = logging.getLogger(__name__)

STILL_SECONDS = 3.0
ANSWERED_WITHIN = 0.5  # seconds for a poll; a slower one starts the watch again
POLL_GAP = 1.0  # seconds between two polls; a longer gap starts the watch again
CALLS_PER_SCRIPT = 256


class Sighting(NamedTuple):
    """A beat, and when it was known to be there: `at` is after the reply that showed it first, so the wait is never short."""

    beat: bytes
    at: float


class Reaper:
    """Call `step` every half second, from a thread that does nothing slow besides. `clock` is for simulations."""

    def __init__(self, state: "str | redis.Redis", clock: Callable[[], float] = time.monotonic) -> None:
        self.state = sync_client(state, timeout=2.0) if isinstance(state, str) else state
        self._clock = clock
        self._seen: dict[bytes, Sighting] = {}
        self._polled = float("-inf")

    def step(self) -> int:
        """Watch once; take the dead sessions and undo all their calls. Returns how many calls it undid.

        Raises redis.RedisError when the state server does not do its part: the watch starts again.
        """
        dead, reaping = self.watch()
        reaping += [session for session, beat in dead if self.take(session, beat)]
        undone = 0
        for session in reaping:
            while count := self.undo(session):
                undone += count
        return undone

    def watch(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Poll once. Returns the sessions found dead, each with its beat, and those that are being reaped."""
        sent = self._clock()
        try:
            beats, reaping = WATCH.run_sync(self.state, [], [])
        except redis.RedisError:
            self._seen.clear()
            raise
        now = self._clock()
        if now - sent > ANSWERED_WITHIN or sent - self._polled > POLL_GAP:
            self._seen.clear()
        self._polled = now
        alive = dict(zip(beats[::2], beats[1::2], strict=True))
        seen = {session: self._seen.get(session) for session in alive}
        self._seen = {
            session: before if before is not None and before.beat == alive[session] else Sighting(alive[session], now)
            for session, before in seen.items()
        }
        dead = [(name.decode(), seen.beat) for name, seen in self._seen.items() if sent - seen.at >= STILL_SECONDS]
        return sorted(dead), sorted(session.decode() for session in reaping)

    def take(self, session: str, beat: bytes) -> bool:
        """Fence the session's gateway, unless it has beaten since."""
        is_taken = bool(TAKE.run_sync(self.state, [open_key(session), reaping_key(session)], [session, beat]))
        if is_taken:
            log.warning("a gateway's heart has stopped; its open calls are reversed", extra={"session": session})
        return is_taken

    def undo(self, session: str) -> int:
        """Reverse some calls of a taken session; how many. 0: none are left."""
        return int(REAP.run_sync(self.state, [reaping_key(session), JOURNAL], [session, CALLS_PER_SCRIPT]))
