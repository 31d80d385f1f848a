"""The calls under way in one gateway, and how each ends: exactly once, with its place freed and its charge settled."""

import asyncio
import itertools
import time
from collections import Counter

from inference.books.client import Books
from inference.gateway import pricing, refusals
from inference.gateway.answers import Outcome
from inference.gateway.call import Call
from inference.gateway.deadlines import Deadlines
from inference.gateway.lanes import Lanes
from inference.gateway.turns import Turns
from inference.gateway.weight import LIGHT
from saas.lib import errors
from saas.lib.errors import AppError
from saas.lib.ids import uuid7_hex

MAX_PUSHES = 5  # again after each death of a worker: what kills one is found out and kills no second (inference/suspects.py)
MAX_CALLS = 8192  # under way at once in one process, whatever they wait for
MAX_BYTES = 256 << 20  # of their bodies, small ones not counted
SHARE_BYTES = 64 << 20  # of these for one organization; a single call may bring more


class Running:
    """Lives on one event loop, which is set when the gateway starts."""

    def __init__(self, books: Books, lanes: Lanes) -> None:
        self._books, self._lanes = books, lanes
        self.calls: dict[int, Call] = {}
        self.turns = Turns(lanes.push)
        self._numbers = itertools.count(1)
        self._deadlines = Deadlines(self._on_late)
        self._bytes: Counter[str] = Counter()  # of large bodies, by organization
        self._is_stopping = False
        self._emptied: asyncio.Event | None = None

    def begin(self, call: Call, loop: asyncio.AbstractEventLoop) -> AppError | None:
        """Take `call`, with a price, a new id and its deadline running; or say why it cannot be taken now."""
        if self._is_stopping:
            return errors.Unavailable("The service is restarting; try again", retry_after=1)
        if not (self._books.is_connected and self._books.may_answer() and self._lanes.takes_calls):
            return errors.Unavailable("The platform cannot take calls right now; try again soon", retry_after=1)
        if len(self.calls) >= MAX_CALLS:
            return errors.CapacityExhausted("Too many calls are under way", retry_after=1, source="platform")
        call.opened_ms = self._books.now_ms()
        try:
            call.price = price = pricing.price_of(call.key, call.route, call.quote, call.opened_ms)
            call.most_nano = pricing.most(price, call.rows, call.timeout)
        except AppError as error:
            return error
        if call.bytes_in > LIGHT and (refusal := self._take_bytes(call)):
            return refusal
        call.began = loop.time()
        call.id = uuid7_hex(call.opened_ms)
        call.number = next(self._numbers)
        call.deadline = time.time() + call.timeout
        self.calls[call.number] = call
        self._deadlines.add(call.number, call.began + call.timeout, loop)
        return None

    def _take_bytes(self, call: Call) -> AppError | None:
        """Count a large body, or say that there is no room for it."""
        if not self._lanes.takes_large_calls:
            return refusals.too_much()
        organization, size = call.key.organization, call.bytes_in
        held = self._bytes[organization]
        if held and held + size > SHARE_BYTES:
            return refusals.too_large_a_share()
        if self._bytes and self._bytes.total() + size > MAX_BYTES:
            return refusals.too_much()
        self._bytes[organization] += size
        return None

    def _free_bytes(self, call: Call) -> None:
        self._bytes[call.key.organization] -= call.bytes_in
        self._bytes = +self._bytes  # without the zeros

    async def stop(self, grace: float) -> None:
        """Take no more, let those under way end within `grace` seconds, fail the rest with 503."""
        self._is_stopping = True
        self._emptied = asyncio.Event()
        if not self.calls:
            return
        try:
            await asyncio.wait_for(self._emptied.wait(), grace)
        except TimeoutError:
            self.fail_all("The service is restarting; try again", has_reply=True)

    def end(self, call: Call, outcome: Outcome) -> None:
        """Tell the caller, and free the call's places."""
        if call.is_ended:
            return
        call.is_ended = True
        self.calls.pop(call.number, None)
        if call.bytes_in > LIGHT:
            self._free_bytes(call)
        if call.is_admitted and not call.is_low:
            self._lanes.release(call)
            self.turns.go_on(call)
        call.open_call = None  # it knows the call: left here, only the garbage collector would free the two
        call.done(call, outcome)
        if self._emptied is not None and not self.calls:
            self._emptied.set()

    def fail(self, call: Call, error: AppError) -> None:
        """End it without an answer: what it was charged is taken back, and its work leaves the lane."""
        if call.is_ended or call.is_closing:
            return
        open_call, was_running = call.open_call, call.is_admitted and call.reply is None
        self.end(call, error)
        if open_call is not None:
            self._books.undo(open_call)
        if was_running and self._lanes.takes_calls:  # else it stays, and is dropped after its deadline
            self._lanes.withdraw(call)

    def fail_all(self, why: str, *, has_reply: bool) -> None:
        """End all without an answer, or only those whose worker has not replied yet."""
        for call in list(self.calls.values()):
            if has_reply or call.reply is None:
                self.fail(call, errors.Unavailable(why, retry_after=1))

    def _on_late(self, number: int) -> None:
        if call := self.calls.get(number):
            self.fail(call, errors.DeadlineExceeded(f"No answer within {call.timeout:g} s; nothing was charged"))

    def on_lanes_lost(self) -> None:
        self.fail_all("The platform lost this call; nothing was charged", has_reply=False)

    def on_worker_lost(self, now: float) -> None:
        """A worker died with calls in its hands. Which ones nobody knows: all that wait for long are pushed again.

        A call that was still in its lane then runs twice; its second reply finds nobody, and it is charged once.
        """
        for call in self.calls.values():
            if call.is_admitted and call.reply is None and call.pushed < now - 1.0 and call.attempts < MAX_PUSHES:
                call.attempts += 1
                self._lanes.repush(call)
