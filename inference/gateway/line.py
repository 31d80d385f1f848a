"""The gateway: one prediction, as a straight line of callbacks on one event loop.

(authenticate and route: access; decode: the dialect) → open in the books and push into the lane, both at once → reply →
answer → close. Calls end by callbacks, not tasks. An answer never leaves before its call is durably open, and whatever ends a
call without an answer takes its charge back (books.md).
"""

import asyncio
from functools import partial

from inference.books.client import Books
from inference.gateway import headers, receipts, refusals, usage
from inference.gateway.access import Access
from inference.gateway.answers import Answers, AnswerStore, Outcome
from inference.gateway.call import Call, Rendered
from inference.gateway.crowding import Crowding
from inference.gateway.lanes import Admitted, Lanes
from inference.gateway.records import Records
from inference.gateway.running import Running
from inference.lanes import Reply
from saas.lib import errors
from saas.lib.errors import AppError
from saas.lib.ids import uuid7

STOP_BOOKS_WITHIN = 5.0  # seconds that a stop waits for acknowledged closes
ACCOUNT_WAIT = 2.0  # seconds that a call waits for its account to be rebuilt
ACCOUNT_RETRY = 0.03


class Gateway:
    """One per process. `stored` seals and unseals answers; it is inference.gateway.stored in production."""

    def __init__(self, *, state_url: str, lanes_url: str, lane_max_ms: float, stored: AnswerStore) -> None:
        self._session = uuid7().hex
        self.answers = Answers(stored)
        self.books = Books(state_url)
        self.lanes = Lanes(
            lanes_url,
            self._session,
            lane_max_ms=lane_max_ms,
            on_admitted=self._on_admitted,
            on_reply=self._on_reply,
            on_changed=lambda name: self.records.drop(name),
            on_lost=lambda: self.running.on_lanes_lost(),
            on_worker_lost=lambda: self.running.on_worker_lost(self._loop.time()),
        )
        self.records = Records(self.lanes)
        self.access = Access(self.records)
        self.running = Running(self.books, self.lanes)
        self.crowding = Crowding()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(self.books.start(), self.lanes.start())

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let the running ones end within `grace` seconds, fail the rest with 503, settle the books."""
        await self.running.stop(grace)
        await self.books.stop(STOP_BOOKS_WITHIN)
        await self.lanes.stop()
        self.answers.close()
        self.records.close()

    # --- open and push

    def submit(self, call: Call) -> None:
        """Take `call`; `call.done` is called once with what came of it, perhaps before this returns."""
        if (crowded := self._crowded(call)) is not None:
            call.done(call, crowded)
            return
        if call.must_open_first and not call.is_low:  # the books work for it before the lanes limit it, if only to replay
            try:
                self.access.allow(call.key)
            except AppError as error:
                call.done(call, error)
                return
        if refusal := self.running.begin(call, self._loop):
            call.done(call, refusal)
            return
        if call.must_open_first:
            self._open(call)
        elif self.crowding.asks_lanes_first(call, call.began):
            self._push(call)
        else:
            self._open(call)
            self._push(call)

    def _crowded(self, call: Call) -> AppError | None:
        """Why it is refused without asking the books or the lanes, if it is."""
        turns = self.running.turns
        if not call.is_low and call.idempotency_key is None and turns.is_awaited(call) and not self._may_wait(call):
            return refusals.of_lanes(call.key, "share", 1000)
        return self.crowding.refusal(call, self._loop.time())

    def _may_wait(self, call: Call) -> bool:
        """Whether it may wait for its turn: a quarter of what a lane holds, so that a rush is soon over.

        Of slow calls, which wait here and not in their lane, as much as a lane holds.
        """
        part = 1 if call.takes_slow_place else 4
        return self.running.turns.has_room(call, self.lanes.room(part * call.expected_ms))

    def _push(self, call: Call) -> None:
        if not call.is_low and self.running.turns.is_awaited(call):
            self.running.turns.wait(call)
        else:
            self.lanes.push(call)

    def _open(self, call: Call) -> None:
        call.open_call = usage.open_call(call, partial(self._on_open, call))
        self.books.open(call.open_call)

    def _on_open(self, call: Call, verdict: str, note: bytes | None) -> None:
        if call.is_ended:
            return
        if verdict == "open":
            call.is_open, call.left = True, note
            if call.reply is not None:
                self._answer(call)
            elif call.must_open_first:
                self._push(call)
            return
        if call.is_closing:
            call.is_open = False  # lost while its answer is being stored: `_sealed` sees it, or the books say "gone"
            return
        call.open_call = None  # refused or lost: there is nothing to undo
        if verdict == "replay" and note is not None:
            self._replay(call, note)
        elif verdict == "unknown" and self._loop.time() - call.began < ACCOUNT_WAIT:
            self._loop.call_later(ACCOUNT_RETRY, self._open_again, call)
        else:
            self.running.fail(call, refusals.of_books(verdict, note, call.key.terms.currency, call.opened_ms))

    def _open_again(self, call: Call) -> None:
        if not call.is_ended and call.open_call is None:  # its admission may have opened it meanwhile
            self._open(call)

    def _on_admitted(self, calls: list[Call], admitted: Admitted) -> None:
        count, reason, key_tokens, organization_tokens, wait = admitted
        for index, call in enumerate(calls):
            if not call.is_low:
                call.limits = refusals.limits_left(call.key, key_tokens, organization_tokens)
            if index >= count:
                self._refuse(call, reason, wait)
                continue
            call.is_admitted = True
            if call.is_ended:
                self.lanes.withdraw(call)
                self.lanes.release(call)
            elif call.open_call is None:
                self._open(call)

    def _refuse(self, call: Call, reason: str, wait: int) -> None:
        if not call.is_ended and (
            (call.has_waited and reason in ("share", "lane")) or (reason == "share" and self._may_wait(call))
        ):
            self.running.turns.wait(call)
            return
        self.crowding.note(call, reason, wait, self._loop.time())
        self.running.fail(call, refusals.of_lanes(call.key, reason, wait))

    # --- reply, answer, close

    def _on_reply(self, reply: Reply) -> None:
        call = self.running.calls.get(reply.number)
        if call is None or call.reply is not None:
            return  # its caller is gone, or it was run twice after a worker's death
        if reply.code:
            self.running.fail(call, refusals.of_worker(reply.code, reply.message))
            return
        call.reply = reply
        if call.is_open:
            self._answer(call)

    def _answer(self, call: Call) -> None:
        """The result is back and the call is open. A keyed call's outcome is stored before its answer leaves."""
        assert call.reply is not None
        self.answers.render(call, call.reply, self._rendered)

    def _rendered(self, call: Call, outcome: Outcome) -> None:
        """Perhaps a thread has made it. Meanwhile the call may have failed: its deadline, its client, its session."""
        if call.is_ended:
            return
        if isinstance(outcome, AppError):
            self.running.fail(call, outcome)
        elif self.books.may_answer():
            self._close(call, outcome)
        else:
            self.running.fail(call, errors.Unavailable("The books did not confirm in time; nothing was charged", retry_after=1))

    def _close(self, call: Call, answer: Rendered) -> None:
        open_call = call.open_call
        assert open_call is not None
        call.bytes_out = len(answer.body)
        record = usage.closed(call, self.books.now_ms())
        if call.input_digest:
            answer = receipts.attach(call, record, answer)
        if call.idempotency_key is None:
            self.running.end(call, answer)
            self.books.close(open_call, record, None, None)
        else:
            cost = headers.cost(call.cost_nano, call.price.currency)  # stored too: a replay says what the call has cost
            answer = Rendered(answer.status, [*answer.headers, cost], answer.body)
            call.is_closing = True  # from here on it gets its outcome, however long that takes
            self.answers.seal(call, answer, self._sealed)

    def _sealed(self, call: Call, answer: Rendered, sealed: bytes | AppError) -> None:
        if isinstance(sealed, AppError):
            call.is_closing = False
            self.running.fail(call, sealed)
            return
        if not call.is_open:
            self._lost(call)
            return

        def closed(verdict: str) -> None:
            if verdict in ("closed", "done"):
                self.running.end(call, answer)
            else:
                self._lost(call)

        assert call.open_call is not None
        assert call.record is not None  # as `_close` has completed it
        self.books.close(call.open_call, call.record, sealed, closed)

    def _lost(self, call: Call) -> None:
        """A reaper took its session before it was closed: it is undone there, and its answer must not leave."""
        call.open_call, call.is_closing = None, False
        self.running.fail(call, errors.Unavailable("The books lost this call; nothing was charged", retry_after=1))

    def _replay(self, call: Call, stored: bytes) -> None:
        call.is_replay = True
        self.answers.unseal(call, stored, self._replayed)

    def _replayed(self, call: Call, outcome: Outcome) -> None:
        if isinstance(outcome, AppError):
            self.running.fail(call, outcome)
        else:
            self.running.end(call, outcome)

    # --- ends without an answer

    def abandon(self, call: Call) -> None:
        """The client left. A keyed call goes on to its result, for the retry; any other frees its place at once."""
        if call.is_ended or call.idempotency_key is not None:
            return
        call.done = _nobody
        self.running.fail(call, errors.AppError("client_closed_request"))

    def cancel(self, call: Call) -> None:
        """Its owner wants it no more: it fails, keyed or not, unless its outcome is on the way into the books."""
        self.running.fail(call, errors.StateConflict("The prediction was canceled; nothing was charged"))


def _nobody(call: Call, outcome: Outcome) -> None:
    """Takes the outcome of a call whose client left."""
