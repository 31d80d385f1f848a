"""The books as a gateway sees them: open a call before its answer leaves, close it afterwards.

`Books` keeps one session on one pipelined connection. What calls ask for in a few rounds of the event loop travels in one
script, and only one script is under way at a time. All methods and callbacks run on the loop; no single call has a task or a
future here. See books.lua for what a script does; connection and heartbeat are in session.py.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from inference.books.batch import CLOSE_VERDICTS, NOTED, OPEN_VERDICTS, Batch, pack_batch
from inference.books.open_call import CLOSE_SENT, CLOSING, ENDED, NEW, OPEN, QUEUED, OpenCall
from inference.books.record import UsageRecord, pack_ended
from inference.books.scripts import BOOKS, FULL, JOURNAL, open_key
from inference.books.session import RETRY_EVERY, Session
from inference.books.wire import Dialer, boot_seconds
from saas.lib.gathering import Gathering
from saas.lib.valkey import ReplyError

log = logging.getLogger(__name__)

CALLS_PER_SCRIPT = 256
CLOSE_WITHIN = 0.02  # seconds that a close nobody waits for may wait for a tick to travel with
STORED_MAX_BYTES = 1 << 20  # of one stored answer; a larger one goes to PostgreSQL before the close


class Books(Session):
    """One gateway's books; one per event loop. The arguments after the URL are for simulations."""

    def __init__(
        self,
        state_url: str,
        *,
        dial: Dialer | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = boot_seconds,
        new_session: Callable[[], str] = secrets.token_hex,
    ) -> None:
        super().__init__(state_url, dial=dial, loop=loop, clock=clock, new_session=new_session)
        self._opens: dict[OpenCall, None] = {}  # in order; a dict, so that a call can leave it
        self._closes: list[OpenCall] = []
        self._calls: dict[OpenCall, None] = {}  # from the sending of the open to the acknowledgement of the close
        self._flying: Batch | None = None
        self._unacknowledged: Batch | None = None  # was under way when its connection was lost
        self._gathering = Gathering(lambda: len(self._opens), self._tick)
        self._is_flush_due = self._is_urgent = False

    # --- for the gateway

    async def start(self, timeout: float = 5.0) -> None:
        """Connect and register; after `timeout` seconds it goes on in the background (`is_connected` tells)."""
        self.begin()
        await self._wait_for(lambda: self._is_registered, timeout)

    async def stop(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for the acknowledgement of all closes, then leave.

        Calls that are still open are left to the reaper, which reverses them.
        """
        self._flush()
        await self._wait_for(lambda: self._flying is None and not self._closes and self._unacknowledged is None, timeout)
        self._is_stopped = True
        if self._is_registered and self._wire is not None:
            await self._leave(self._wire)
        self.abandon()

    def open(self, call: OpenCall) -> None:
        """Charge the most that `call` can cost and write it down; `call.on_open` is told."""
        call.state = QUEUED
        self._opens[call] = None
        self._wake()

    def close(
        self, call: OpenCall, record: UsageRecord, stored: bytes | None = None, on_close: Callable[[str], None] | None = None
    ) -> None:
        """Write down that `call` was answered, with its exact charge `record.nano`, clamped to the maximum and marked so.

        `stored` is kept for replays of its Idempotency-Key (None: the caller keeps it, and a replay gets b""). `on_close` gets
        one of CLOSE_VERDICTS; with it the close does not wait for company. Raises ValueError if `stored` is larger than
        STORED_MAX_BYTES, or if `record` is another call's.
        """
        if stored is not None and len(stored) > STORED_MAX_BYTES:
            raise ValueError(f"a stored answer has at most {STORED_MAX_BYTES} bytes, not {len(stored)}")
        if record.nano > call.max_nano:
            record.nano, record.is_clamped = call.max_nano, True
        if not record.closed_ms:
            record.closed_ms = self.now_ms()
        call.nano, call.stored = record.nano, stored or b""
        self._end(call, pack_ended(record, call.record), on_close)

    def undo(self, call: OpenCall, on_close: Callable[[str], None] | None = None) -> None:
        """Take back the charge of a call that failed. One whose open was not sent yet leaves no trace."""
        self._end(call, b"", on_close)

    def _end(self, call: OpenCall, outcome: bytes, on_close: Callable[[str], None] | None) -> None:
        if call.outcome is not None or call.state in (NEW, ENDED):
            if on_close:
                self._loop.call_soon(on_close, "gone")
            return
        call.outcome, call.on_close = outcome, on_close
        if call.state == QUEUED:
            del self._opens[call]
            self._leave_queue(call)
        elif call.state == OPEN:
            self._queue_close(call)
        # OPENING: its close goes into a later script, once the open is acknowledged

    def _leave_queue(self, call: OpenCall) -> None:
        """End a call whose open is not under way: without a trace if it never was, else whether or not it was opened."""
        if call.is_open_sent:
            call.is_repeated = True
            self._queue_close(call)
            return
        call.state = ENDED
        if call.on_close is not None:
            self._loop.call_soon(call.on_close, "closed")

    def _queue_close(self, call: OpenCall) -> None:
        call.state = CLOSING
        self._closes.append(call)
        if call.on_close is not None:
            self._is_urgent = True
            self._wake()
        elif not self._is_flush_due:
            self._is_flush_due = True
            self._timers["flush"] = self._loop.call_later(CLOSE_WITHIN, self._flush)

    # --- one script a tick

    def _wake(self) -> None:
        if self._flying is None and self._is_registered:
            self._gathering.begin(self._loop)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._closes:
            self._is_urgent = True
            self._wake()

    def _tick(self) -> None:
        if self._flying is not None or not self._is_registered or not (self._opens or self._closes):
            return
        closes = self._closes[:CALLS_PER_SCRIPT]
        del self._closes[:CALLS_PER_SCRIPT]
        opens = list(islice(self._opens, CALLS_PER_SCRIPT - len(closes)))
        if len(opens) == len(self._opens):
            self._opens = {}
        else:
            for call in opens:
                del self._opens[call]
        self._is_urgent = bool(self._closes)
        self._calls.update(dict.fromkeys(opens))
        self._flying = pack_batch(closes, opens, self.room)
        self._send(self._flying)

    def _send(self, batch: Batch) -> None:
        if self._wire is not None:
            keys = (open_key(self._session), JOURNAL, FULL)
            BOOKS.run(self._wire, partial(self._on_booked, batch), keys, batch.arguments)

    def _on_booked(self, batch: Batch, reply: Any) -> None:
        if batch is not self._flying or isinstance(reply, ConnectionError):
            return  # the next session decides what becomes of it
        if isinstance(reply, ReplyError):
            log.warning("the books wait: %s", reply)
            self._timers["again"] = self._loop.call_later(RETRY_EVERY, self._send_again, batch)
            return
        if reply == 0:
            self._lose_session()
            return
        self._flying = None
        verdicts: bytes = reply[0]
        notes = iter(reply[1:])
        for call, letter in zip(batch.closes, verdicts, strict=False):
            self._closed(call, CLOSE_VERDICTS[letter])
        for call, letter in zip(batch.opens, islice(verdicts, len(batch.closes), None), strict=True):
            self._opened(call, OPEN_VERDICTS[letter], next(notes) if letter in NOTED else None)
        if self._opens or self._is_urgent:
            self._wake()
        if self._changed is not None:
            self._changed.set()

    def _send_again(self, batch: Batch) -> None:
        if batch is self._flying:
            self._send(batch)

    def _opened(self, call: OpenCall, verdict: str, note: bytes | None) -> None:
        if verdict == "open":
            call.state = OPEN
            if call.outcome is not None:
                self._queue_close(call)
                return
        else:
            call.state = ENDED
            del self._calls[call]
            if call.outcome is not None:
                self._tell(call.on_close, "closed")
                return
        self._tell(call.on_open, verdict, note)

    def _closed(self, call: OpenCall, verdict: str) -> None:
        call.state = ENDED
        del self._calls[call]
        if verdict == "bad":
            log.error("the books refused the record of a call; it is in quarantine", extra={"call": call.call})
        if verdict == "gone" and call.is_repeated and not (call.outcome and call.claim is not None):
            verdict = "closed"  # by an earlier sending; an outcome with a claim would have been `done`
        self._tell(call.on_close, verdict)

    def _tell(self, callback: Callable[..., None] | None, *what: Any) -> None:
        if callback is None:
            return
        try:
            callback(*what)
        except Exception as error:  # one call's caller must not take the others' verdicts with it
            self._loop.call_exception_handler({"message": "a callback of the books failed", "exception": error})

    # --- what a session begins and ends with

    def _keep_flying(self) -> None:
        if self._flying is not None:
            self._flying, self._unacknowledged = None, self._flying

    def _requeue(self) -> None:
        """The calls are still ours: what was not acknowledged is sent again, before all else."""
        batch, self._unacknowledged = self._unacknowledged, None
        if batch is None:
            return
        opens: dict[OpenCall, None] = {}
        closes: list[OpenCall] = []
        for call in batch.closes:
            call.is_repeated = True
            closes.append(call)
        for call in batch.opens:
            call.state = QUEUED
            if call.outcome is None:
                opens[call] = None
            else:  # it has failed meanwhile
                call.is_repeated = True
                closes.append(call)
        self._closes, waiting = [], self._closes
        for call in closes:
            self._queue_close(call)
        self._closes += waiting
        self._opens = {**opens, **self._opens}

    def _lose_calls(self) -> None:
        """No session of ours was found: it was reaped, or the server lost its data. Calls not sent yet are not concerned."""
        calls, self._calls, self._closes, self._unacknowledged = self._calls, {}, [], None
        self._opens = {call: None for call in self._opens if not call.is_open_sent}
        for call in calls:
            if call.state in (CLOSING, CLOSE_SENT) and call.is_close_sent and call.outcome and call.claim is not None:
                self._calls[call] = None
                self._queue_close(call)  # asks the claim: `done` if it holds this call's outcome, else `gone`
                continue
            call.state = ENDED
            if call.outcome is None:
                self._tell(call.on_open, "lost", None)
            else:
                self._tell(call.on_close, "gone")
