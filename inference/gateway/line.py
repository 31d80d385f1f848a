"""The gateway: one prediction, as a straight line of callbacks on one event loop.

authenticate → route → (decode, in the dialect) → open in the books and push into the lane, both at once → reply → answer →
close. Calls end by callbacks, not tasks. An answer never leaves before its call is durably open, and whatever ends a call
without an answer takes its charge back (books.md).
"""

import asyncio
import itertools
import logging
import math
import time
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Protocol

import msgspec

from inference.books.client import Books, OpenCall
from inference.books.record import UsageRecord, pack_record
from inference.gateway.call import Call, Rendered
from inference.gateway.lanes import Admitted, Lanes
from inference.gateway.records import Records
from inference.lanes import Reply
from inference.routes import ModelRoute, preferred
from saas.lib import errors
from saas.lib.errors import AppError
from saas.lib.ids import uuid7
from saas.lib.names import is_name
from tenants import keys
from tenants.principal import KeyRecord

log = logging.getLogger(__name__)

CATALOG = "catalog"  # slug of the organization that owns the public models
STOP_BOOKS_WITHIN = 5.0  # seconds that a stop waits for acknowledged closes
ACCOUNT_WAIT = 2.0  # seconds that a call waits for its account to be rebuilt
ACCOUNT_RETRY = 0.03
LARGE_REPLY = 256 << 10  # bytes of outputs from which an answer is rendered in a thread; below, the hop costs more
MANY_LABELS = 1000  # the same, for labels
MS_PER_HOUR = 3_600_000
MAX_PUSHES = 2  # a call is pushed again once if its worker dies, so that a poisonous one cannot kill them all
CLAIM_KEEP = 48 * 3600  # seconds that an answer can be replayed (books.md)
FAILURES = {error.code: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, AppError)}
pack_answer, unpack_answer = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Rendered).decode


class AnswerStore(Protocol):
    """Where answers for an Idempotency-Key go: sealed with the tenant's key into the books, a too large one into a table.

    `seal` blocks when `is_slow` says so of the packed answer, and then runs in a thread; `unseal` always does.
    """

    def seal(self, call: Call, packed: bytes) -> bytes: ...
    def unseal(self, call: Call, stored: bytes) -> bytes: ...
    def is_slow(self, packed: bytes) -> bool: ...


class Gateway:
    """One per process. `stored` seals and unseals answers; it is inference.gateway.stored in production."""

    def __init__(self, *, state_url: str, lanes_url: str, lane_max_ms: float, stored: AnswerStore) -> None:
        self._session = uuid7().hex
        self._stored = stored
        self.books = Books(state_url)
        self.lanes = Lanes(
            lanes_url,
            self._session,
            lane_max_ms=lane_max_ms,
            on_admitted=self._on_admitted,
            on_reply=self._on_reply,
            on_changed=self._on_changed,
            on_lost=self._on_lanes_lost,
            on_worker_lost=self._on_worker_lost,
        )
        self.records = Records(self.lanes)
        self.calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._refused_until: dict[str, float] = {}  # organization → loop time: its calls ask the lanes before the books
        self._is_stopping = False
        self._ended: asyncio.Event | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(self.books.start(), self.lanes.start())

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let the running ones end within `grace` seconds, fail the rest with 503, settle the books."""
        self._is_stopping = True
        self._ended = asyncio.Event()
        if self.calls:
            try:
                await asyncio.wait_for(self._ended.wait(), grace)
            except TimeoutError:
                for call in list(self.calls.values()):
                    self._fail(call, errors.Unavailable("The service is restarting; try again", retry_after=1))
        await self.books.stop(STOP_BOOKS_WITHIN)
        await self.lanes.stop()

    # --- authenticate and route

    def principal(self, presented: str) -> KeyRecord | None:
        """The key behind `presented`, if memory knows it; None: ask fetch_principal. Raises ApiKeyInvalid."""
        public_id = keys.parse(presented)
        if public_id is None:
            raise errors.ApiKeyInvalid()
        known, record = self.records.get(f"key:{public_id}")
        return self._verified(record, presented) if known else None

    async def fetch_principal(self, presented: str) -> KeyRecord:
        """The same, asking the lanes server and then PostgreSQL. Raises ApiKeyInvalid, Unavailable."""
        public_id = keys.parse(presented)
        if public_id is None:
            raise errors.ApiKeyInvalid()
        return self._verified(await self.records.fetch(f"key:{public_id}"), presented)

    @staticmethod
    def _verified(record: KeyRecord | None, presented: str) -> KeyRecord:
        if record is None:
            keys.verify_nothing(presented)
            raise errors.ApiKeyInvalid()
        keys.verify(record, presented)
        return record

    def route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = "predictions:write") -> ModelRoute | None:
        """The model that `key` calls `name` or `owner/name`, if memory knows; None: ask fetch_route.

        A name without owner is the organization's own model, else the catalogue's (inference.routes.preferred).
        Raises ScopeMissing, ModelNotAllowed and NotFound: another organization's private model does not exist.
        """
        found: ModelRoute | None = None
        for record_name in self._route_names(key, owner, name, scope):
            known, route = self.records.get(record_name)
            if not known:
                return None
            found = preferred(found, route)
            if found is not None and found.is_callable:
                break
        return self._allowed(key, found, owner, name)

    async def fetch_route(
        self, key: KeyRecord, owner: str | None, name: str, *, scope: str = "predictions:write"
    ) -> ModelRoute:
        """The same, asking the lanes server and then PostgreSQL. Raises Unavailable too."""
        found: ModelRoute | None = None
        for record_name in self._route_names(key, owner, name, scope):
            found = preferred(found, await self.records.fetch(record_name))
            if found is not None and found.is_callable:
                break
        return self._allowed(key, found, owner, name)

    @staticmethod
    def _route_names(key: KeyRecord, owner: str | None, name: str, scope: str) -> tuple[str, ...]:
        if scope not in key.scopes:
            raise errors.ScopeMissing(f"The key has no scope {scope}; give it one, or use another key")
        if not is_name(name) or not (owner is None or is_name(owner)):
            raise errors.NotFound(_no_model(owner, name))  # nothing is asked for what cannot exist
        own = f"route:own:{key.organization}:{name}"
        if owner is None:
            return (own, f"route:public:{CATALOG}:{name}")
        return (own,) if owner == key.slug else (f"route:public:{owner}:{name}",)

    @staticmethod
    def _allowed(key: KeyRecord, route: ModelRoute | None, owner: str | None, name: str) -> ModelRoute:
        if route is None:
            raise errors.NotFound(_no_model(owner, name))
        if not key.may_call(route.full_name, route.name):
            raise errors.ModelNotAllowed(f"The key may not call {route.full_name}; its allow-list names other models")
        return route

    def _on_changed(self, name: str) -> None:
        self.records.drop(name)

    # --- open and push

    def submit(self, call: Call) -> None:
        """Take `call`; `call.done` is called once with what came of it, perhaps before this returns."""
        call.began = self._loop.time()
        if self._is_stopping:
            call.done(call, errors.Unavailable("The service is restarting; try again", retry_after=1))
            return
        if not (self.books.is_connected and self.lanes.is_connected):
            call.done(call, errors.Unavailable("The platform cannot take calls right now; try again soon", retry_after=1))
            return
        call.opened_ms = self.books.now_ms()
        call.id = uuid7(call.opened_ms).hex
        call.number = next(self._numbers)
        call.deadline = time.time() + call.timeout
        call.timer = self._loop.call_later(call.timeout, self._on_deadline, call)
        self.calls[call.number] = call
        if call.must_open_first:
            self._open(call)
        elif self._refused_until.get(call.key.organization, 0.0) > call.began:
            self.lanes.push(call)  # while the lanes refuse it, its calls do not burden the books
        else:
            self._open(call)
            self.lanes.push(call)

    def _open(self, call: Call) -> None:
        claim = None
        if call.idempotency_key is not None:
            kind = (
                "prediction" if call.is_low else "call"
            )  # a client's key must not meet a prediction's, nor a test's a live one
            claim = f"{call.key.organization}:{call.key.mode}:{kind}:{call.idempotency_key}".encode()
        if call.record is None:
            call.record = self._new_record(call)
        call.open_call = OpenCall(
            call=call.id,
            tenant=call.key.organization,
            key=call.key.id,
            period=call.record.period,
            max_nano=0,
            mode=call.key.mode,
            record=pack_record(call.record),
            claim=claim,
            fingerprint=call.fingerprint,
            keep_seconds=CLAIM_KEEP,
            on_open=partial(self._on_open, call),
        )
        self.books.open(call.open_call)

    def _on_open(self, call: Call, verdict: str, stored: bytes | None) -> None:
        if call.is_ended:
            return
        if verdict == "open":
            call.is_open = True
            if call.reply is not None:
                self._answer(call)
            elif call.must_open_first:
                self.lanes.push(call)
            return
        if call.is_closing:
            call.is_open = False  # lost while its answer is being stored: `_close_stored` sees it, or the books say "gone"
            return
        call.open_call = None  # refused or lost: there is nothing to undo
        if verdict == "replay" and stored is not None:
            self._replay(call, stored)
        elif verdict == "unknown" and self._loop.time() - call.began < ACCOUNT_WAIT:
            self._loop.call_later(ACCOUNT_RETRY, self._open_again, call)
        else:
            self._fail(call, refusal(verdict))

    def _open_again(self, call: Call) -> None:
        if not call.is_ended and call.open_call is None:  # its admission may have opened it meanwhile
            self._open(call)

    def _on_admitted(self, calls: list[Call], admitted: Admitted) -> None:
        count, reason, key_tokens, organization_tokens, wait = admitted
        for index, call in enumerate(calls):
            if not call.is_low:
                call.limits = limits_left(call.key, key_tokens, organization_tokens)
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
        if reason != "lane":
            self._refused_until[call.key.organization] = self._loop.time() + 1.0
            if len(self._refused_until) > 10_000:
                self._refused_until.clear()
        self._fail(call, admission_refusal(call, reason, wait))

    # --- reply, answer, close

    def _on_reply(self, reply: Reply) -> None:
        call = self.calls.get(reply.number)
        if call is None or call.reply is not None:
            return  # its caller is gone, or it was run twice after a worker's death
        if reply.code:
            failure = FAILURES.get(reply.code, errors.ModelFailed)
            self._fail(call, failure(reply.message, retry_after=1 if failure.status == 503 else None))
            return
        call.reply = reply
        if call.is_open:
            self._answer(call)

    def _answer(self, call: Call) -> None:
        """The result is back and the call is open. A keyed call's outcome is stored before its answer leaves."""
        if not self.books.may_answer():
            self._fail(call, errors.Unavailable("The books did not confirm in time; nothing was charged", retry_after=1))
            return
        assert call.reply is not None
        if is_large(call.reply):
            rendering = self._loop.run_in_executor(None, rendered_or_error, call, call.reply)
            rendering.add_done_callback(lambda done: self._rendered(call, done))
        else:
            self._close(call, rendered_or_error(call, call.reply))

    def _rendered(self, call: Call, rendering: "asyncio.Future[Rendered | AppError]") -> None:
        """A thread has rendered the answer. Meanwhile the call may have failed: its deadline, its client, its session."""
        if call.is_ended:
            return
        if self.books.may_answer():
            self._close(call, rendering.result())
        else:
            self._fail(call, errors.Unavailable("The books did not confirm in time; nothing was charged", retry_after=1))

    def _close(self, call: Call, rendered: Rendered | AppError) -> None:
        if isinstance(rendered, AppError):
            self._fail(call, rendered)
            return
        assert call.open_call is not None
        call.bytes_out = len(rendered.body)
        if call.idempotency_key is None:
            self._end(call, rendered)
            self.books.close(call.open_call, self._ended_record(call), None, None)
        else:
            self._store(call, rendered)

    def _store(self, call: Call, rendered: Rendered) -> None:
        call.is_closing = True  # from here on it gets its outcome, however long that takes
        packed = pack_answer(rendered)
        if not self._stored.is_slow(packed):
            try:
                sealed = self._stored.seal(call, packed)
            except Exception as error:  # a key that does not open, for example: this call fails, the others go on
                self._not_stored(call, error)
            else:
                self._close_stored(call, rendered, sealed)
            return
        sealing = self._loop.run_in_executor(None, self._stored.seal, call, packed)
        sealing.add_done_callback(lambda done: self._sealed(call, rendered, done))

    def _sealed(self, call: Call, rendered: Rendered, sealing: "asyncio.Future[bytes]") -> None:
        if error := sealing.exception():
            self._not_stored(call, error)
        else:
            self._close_stored(call, rendered, sealing.result())

    def _not_stored(self, call: Call, error: BaseException) -> None:
        log.error("an answer could not be stored: %s", error)
        call.is_closing = False
        self._fail(call, errors.Unavailable("The answer could not be stored; nothing was charged", retry_after=1))

    def _close_stored(self, call: Call, rendered: Rendered, sealed: bytes) -> None:
        if not call.is_open:
            self._lost(call)
            return

        def closed(verdict: str) -> None:
            if verdict in ("closed", "done"):
                self._end(call, rendered)
            else:
                self._lost(call)

        assert call.open_call is not None
        self.books.close(call.open_call, self._ended_record(call), sealed, closed)

    def _lost(self, call: Call) -> None:
        """A reaper took its session before it was closed: it is undone there, and its answer must not leave."""
        call.open_call, call.is_closing = None, False
        self._fail(call, errors.Unavailable("The books lost this call; nothing was charged", retry_after=1))

    def _replay(self, call: Call, stored: bytes) -> None:
        call.is_replay = True
        opening = self._loop.run_in_executor(None, self._stored.unseal, call, stored)

        def opened(done: "asyncio.Future[bytes]") -> None:
            if error := done.exception():
                log.error("a stored answer could not be read: %s", error)
                self._fail(call, errors.Unavailable("The stored answer cannot be read right now", retry_after=1))
            else:
                self._end(call, unpack_answer(done.result()))

        opening.add_done_callback(opened)

    def _new_record(self, call: Call) -> UsageRecord:
        """What is known when the call opens."""
        return UsageRecord(
            call=call.id,
            tenant=call.key.organization,
            key=call.key.id,
            model=call.route.id,
            version=call.version.id,
            model_name=call.route.full_name,
            version_number=call.version.number,
            endpoint=call.endpoint,
            mode=call.key.mode,
            kind="usage",
            period=period_of(call.opened_ms // MS_PER_HOUR),
            price_version=0,
            rows=call.rows,
            max_nano=0,
            opened_ms=call.opened_ms,
            request_id=call.request_id,
        )

    def _ended_record(self, call: Call) -> UsageRecord:
        """The same, with what was measured: what the journal gets."""
        record, reply = call.record, call.reply
        assert record is not None
        assert reply is not None
        record.closed_ms = self.books.now_ms()
        record.bytes_in, record.bytes_out = call.bytes_in, call.bytes_out
        record.queue_us, record.compute_us = reply.queue_us, reply.compute_us
        return record

    # --- ends without an answer

    def abandon(self, call: Call) -> None:
        """The client left. A keyed call goes on to its result, for the retry; any other frees its place at once."""
        if call.is_ended or call.idempotency_key is not None:
            return
        call.done = _nobody
        self._fail(call, errors.AppError("client_closed_request"))

    def cancel(self, call: Call) -> None:
        """Its owner wants it no more: it fails, keyed or not, unless its outcome is on the way into the books."""
        self._fail(call, errors.StateConflict("The prediction was canceled; nothing was charged"))

    def _on_deadline(self, call: Call) -> None:
        self._fail(call, errors.DeadlineExceeded(f"No answer within {call.timeout:g} s; nothing was charged"))

    def _fail(self, call: Call, error: AppError) -> None:
        if call.is_ended or call.is_closing:
            return
        open_call, was_running = call.open_call, call.is_admitted and call.reply is None
        self._end(call, error)
        if open_call is not None:
            self.books.undo(open_call)
        if was_running and self.lanes.is_connected:
            self.lanes.withdraw(call)

    def _end(self, call: Call, outcome: Rendered | AppError) -> None:
        if call.is_ended:
            return
        call.is_ended = True
        if call.timer:
            call.timer.cancel()
        self.calls.pop(call.number, None)
        if call.is_admitted and not call.is_low:
            self.lanes.release(call)
        call.done(call, outcome)
        if self._ended is not None and not self.calls:
            self._ended.set()

    def _on_lanes_lost(self) -> None:
        for call in list(self.calls.values()):
            if call.reply is None:
                self._fail(call, errors.Unavailable("The platform lost this call; nothing was charged", retry_after=1))

    def _on_worker_lost(self) -> None:
        """A worker died with calls in its hands. Which ones nobody knows: all that wait for long are pushed once more.

        A call that was still in its lane then runs twice; its second reply finds nobody, and it is charged once.
        """
        before = self._loop.time() - 1.0
        for call in self.calls.values():
            if call.is_admitted and call.reply is None and call.pushed < before and call.attempts < MAX_PUSHES:
                call.attempts += 1
                self.lanes.repush(call)


def is_large(reply: Reply) -> bool:
    """Whether rendering takes so long that the loop must not wait for it."""
    if reply.predictions:
        return len(reply.predictions) * len(reply.predictions[0]) > MANY_LABELS
    return sum([len(output[3]) for output in reply.outputs or ()]) > LARGE_REPLY


def rendered_or_error(call: Call, reply: Reply) -> Rendered | AppError:
    """The call's answer; a fault of ours is logged and told as one."""
    try:
        return call.render(call, reply)
    except AppError as error:
        return error
    except Exception:
        log.exception("the answer of call %s could not be rendered", call.id)
        return errors.InternalError()


@lru_cache(maxsize=8)
def period_of(hour: int) -> str:
    """The month, like 2026-11, of an hour since the epoch: what its calls are summed up by."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")


def _nobody(call: Call, outcome: Rendered | AppError) -> None:
    """Takes the outcome of a call whose client left."""


def _no_model(owner: str | None, name: str) -> str:
    return f"There is no model {owner}/{name}" if owner else f"There is no model {name}"


def refusal(verdict: str) -> AppError:
    """What the books' refusal to open means for the caller."""
    if verdict.startswith("quota:"):
        source = verdict.partition(":")[2]
        return errors.QuotaExceeded(
            f"The {source}'s calls for this month are used up; see GET /api/v1/limits",
            retry_after=until_next_month(),
            source=source,
        )
    if verdict == "in_progress":
        return errors.IdempotencyInProgress(retry_after=1)
    if verdict == "reused":
        return errors.IdempotencyKeyReused()
    if verdict == "unknown":
        return errors.Unavailable(
            "The organization's account is being rebuilt; try again soon", retry_after=1, source="platform"
        )
    if verdict == "full":
        return errors.CapacityExhausted("The books are full; try again later", retry_after=10, source="platform")
    return errors.Unavailable("The books did not take this call; nothing was charged", retry_after=1, source="platform")


def admission_refusal(call: Call, reason: str, wait_ms: int) -> AppError:
    """What the lanes' refusal to admit means for the caller. `reason` is admit.lua's."""
    kind, _, source = reason.partition(":")
    limits = call.key.limits if source == "key" else call.key.organization_limits
    wait = max(1, math.ceil(wait_ms / 1000))
    if kind == "rate":
        return errors.RateLimited(
            f"The {source}'s limit is {limits.rate:g} requests per second", retry_after=wait, source=source
        )
    if kind == "concurrency":
        return errors.ConcurrencyLimited(
            f"The {source}'s limit is {limits.concurrency} requests at once", retry_after=wait, source=source
        )
    return errors.CapacityExhausted(
        "More work waits for this model than can be done in time", retry_after=wait, source="platform"
    )


def limits_left(key: KeyRecord, key_tokens: int, organization_tokens: int) -> list[tuple[str, int, int, int, int]]:
    """The tighter of both buckets, as RateLimit headers tell it."""
    name, limits, tokens = "key", key.limits, key_tokens
    if organization_tokens < key_tokens:
        name, limits, tokens = "organization", key.organization_limits, organization_tokens
    window = max(1, math.ceil(limits.burst / limits.rate))
    return [(name, limits.burst, window, max(0, tokens), math.ceil((limits.burst - tokens) / limits.rate))]


def until_next_month() -> float:
    """Seconds until the quotas start anew: the first of the next month, 00:00 UTC."""
    now = datetime.now(UTC)
    first = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return math.ceil((first - now).total_seconds())
