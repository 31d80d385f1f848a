"""What lies below the books of a gateway: the connection to the state server, the session in it, its heartbeat and its clock.

See session.lua for how a lost connection is survived, and beat.lua for what a heartbeat asks.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from inference.books.scripts import BEAT, FULL, LEAVE, SESSION, open_key
from inference.books.wire import Dialer, ValkeyDialer, Wire
from saas.lib.valkey import ReplyError

log = logging.getLogger(__name__)

BEAT_EVERY = 0.5
ANSWER_WITHIN = 2.0  # seconds after the sending of the last acknowledged beat; a reaper waits 3 s
RETRY_EVERY = 0.2  # between attempts to connect, and after LOADING, BUSY, OOM and the like
BEATS_UNDER_WAY = 8
MEMORY_PERCENT = 80  # of the state server; nothing opens above it
CLAIMS_PERCENT = 60  # above it no call with an Idempotency-Key: what is kept for these must leave room for the others


class Session:
    """One gateway's session; one per event loop. Its calls are known to Books: the methods at the end are its part.

    Books derives from it, instead of having one, so that no call passes a further object.
    """

    def __init__(
        self,
        state_url: str,
        *,
        dial: Dialer | None,
        loop: asyncio.AbstractEventLoop | None,
        clock: Callable[[], float],
        new_session: Callable[[], str],
    ) -> None:
        self._clock, self._new_session = clock, new_session
        self._dialer = ValkeyDialer(state_url)
        self._dial: Dialer = dial or self._dialer
        self._loop: asyncio.AbstractEventLoop = loop  # type: ignore[assignment]  # without one, begin() sets the running one
        self._wire: Wire | None = None
        self._session = self._line = ""  # the line is the first of the sessions that handed our calls on
        self._candidates: list[str] = []  # sessions that may hold our calls: the last one known, and newer ones unacknowledged
        self._is_registered = self._is_stopped = False
        self._is_full = 0
        self._room = -1  # bytes of the state server's memory that are left for claims; -1: no bound is known
        self._beats_under_way = 0
        self._answer_until = 0.0
        self._offset_ms = time.time() * 1000 - clock() * 1000
        self._offset_error_ms = float("inf")
        self._offset_at = 0.0
        self._last_dial = float("-inf")
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._changed: asyncio.Event | None = None  # set while somebody waits: at registration, and when closes are through

    @property
    def is_connected(self) -> bool:
        """Whether calls can be opened now."""
        return self._is_registered

    @property
    def is_full(self) -> bool:
        """Whether the state server has too little memory left for any call to open, as the last heartbeat found it."""
        return bool(self._is_full)

    @property
    def room(self) -> int:
        """Bytes of the state server's memory that are left for what is kept for Idempotency-Keys; -1: it has no bound."""
        return self._room

    def now_ms(self) -> int:
        """Milliseconds since the epoch by the platform's clock, which is the state server's, as far as it is known."""
        return int(self._clock() * 1000 + self._offset_ms)

    def may_answer(self) -> bool:
        """Whether an answer to an open call may leave now: no reaper can have taken the session yet."""
        return self._clock() < self._answer_until

    # --- connection and session

    def begin(self) -> None:
        """Connect in the background, and keep connected and beating until `stop` or `abandon`."""
        self._loop = self._loop or asyncio.get_running_loop()
        self._beat()
        self._connect()

    def abandon(self) -> None:
        """Stop at once, as a kill would: no answer may leave any more; what is open is left to the reaper."""
        self._is_stopped, self._is_registered, self._answer_until = True, False, 0.0
        for timer in self._timers.values():
            timer.cancel()
        self._dialer.cancel()
        if self._wire is not None:
            self._wire.close()

    def _connect(self) -> None:
        if self._is_stopped:
            return
        self._last_dial = self._clock()
        self._dial(self._on_connected, self._redial, self._on_lost)

    def _redial(self) -> None:
        wait = max(0.0, self._last_dial + RETRY_EVERY - self._clock())
        self._timers["dial"] = self._loop.call_later(wait, self._connect)

    def _on_connected(self, wire: Wire) -> None:
        if self._is_stopped:
            wire.close()
            return
        self._wire = wire
        self._register()

    def _on_lost(self) -> None:
        self._wire, self._is_registered = None, False
        self._keep_flying()
        if not self._is_stopped:
            log.warning("the connection to the books is lost")
            self._redial()

    def _register(self) -> None:
        """Begin a new session with all that an earlier one of ours left."""
        if self._wire is None:
            return
        session = self._new_session()
        old = [*self._candidates]
        self._candidates.append(session)
        keys = [open_key(name) for name in (session, *old)]
        done = partial(self._on_registered, self._wire, session, self._clock())
        SESSION.run(self._wire, done, keys, [self._line, session, *old])

    def _register_again(self, wire: Wire) -> None:
        if wire is self._wire:
            self._register()

    def _on_registered(self, wire: Wire, session: str, sent: float, reply: Any) -> None:
        if wire is not self._wire or isinstance(reply, ConnectionError):
            return
        if isinstance(reply, ReplyError):
            log.warning("the books wait: %s", reply)
            self._candidates.remove(session)
            self._timers["register"] = self._loop.call_later(RETRY_EVERY, self._register_again, wire)
            return
        found, seconds, microseconds = reply
        self._session, self._candidates, self._is_registered = session, [session], True
        self._acknowledge_beat(sent, seconds, microseconds)
        if found:
            self._requeue()
        else:
            self._line = session
            self._lose_calls()
        self._wake()
        if self._changed is not None:
            self._changed.set()

    def _lose_session(self) -> None:
        """A reaper has it: nothing we have sent since was written, and nothing that is open may be answered."""
        if not self._is_registered:
            return
        log.error("the books gave this gateway up; its open calls are reversed")
        self._is_registered, self._answer_until, self._candidates = False, 0.0, []
        self._keep_flying()
        self._register()

    async def _leave(self, wire: Wire) -> None:
        left = self._loop.create_future()

        def done(reply: Any) -> None:
            if not left.done():
                left.set_result(reply)

        LEAVE.run(wire, done, [open_key(self._session)], [self._session])
        try:
            async with asyncio.timeout(1.0):
                reply = await left
        except TimeoutError:
            reply = "no reply"
        if reply != 0:
            log.warning("the books were not left empty: %s", reply)

    async def _wait_for(self, is_so: Callable[[], bool], timeout: float) -> None:
        self._changed = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                while not is_so():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("the books did not settle within %g s", timeout)
        finally:
            self._changed = None

    # --- heartbeat and clock

    def _beat(self) -> None:
        self._timers["beat"] = self._loop.call_later(BEAT_EVERY, self._beat)
        if self._is_registered and self._wire is not None and self._beats_under_way < BEATS_UNDER_WAY:
            self._beats_under_way += 1
            done = partial(self._on_beat, self._session, self._clock())
            BEAT.run(self._wire, done, (open_key(self._session), FULL), (CLAIMS_PERCENT, MEMORY_PERCENT))

    def _on_beat(self, session: str, sent: float, reply: Any) -> None:
        self._beats_under_way -= 1
        if session != self._session or isinstance(reply, Exception):
            return
        is_alive, seconds, microseconds, self._is_full, self._room = reply
        if is_alive:
            self._acknowledge_beat(sent, seconds, microseconds)
        else:
            self._lose_session()

    def _acknowledge_beat(self, sent: float, seconds: int, microseconds: int) -> None:
        now = self._clock()
        self._answer_until = max(self._answer_until, sent + ANSWER_WITHIN)
        error = (now - sent) * 500  # half of the round trip, in ms
        drift = now - self._offset_at  # what is known becomes uncertain, by up to 1 ms a second
        offset = seconds * 1000 + microseconds / 1000 - (now + sent) * 500
        is_stepped = abs(offset - self._offset_ms) > error + self._offset_error_ms + drift + 1  # the server's clock was set
        if error <= self._offset_error_ms + drift or is_stepped:
            self._offset_ms = offset
            self._offset_error_ms, self._offset_at = error, now

    # --- what is done with the calls

    def _wake(self) -> None:
        """Calls can be sent now."""
        raise NotImplementedError

    def _keep_flying(self) -> None:
        """What is under way will not be acknowledged on this connection."""
        raise NotImplementedError

    def _requeue(self) -> None:
        """The calls are still ours."""
        raise NotImplementedError

    def _lose_calls(self) -> None:
        """No session of ours was found."""
        raise NotImplementedError
