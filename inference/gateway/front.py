"""The gateway's HTTP: exchanges in, answers and refusals out.

A hot request falls straight down: head → key → model → tensors → `Gateway.submit`, and its answer comes back by callback, all
without a task. Only what memory does not know, compressed or large bodies and the metadata routes take a task.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

import orjson

from inference.gateway import headers, targets
from inference.gateway.access import CALL_SCOPE
from inference.gateway.call import Call, Rendered
from inference.gateway.exchange import JSON_LINE, Exchange, Lookups
from inference.gateway.metadata import Metadata
from inference.gateway.metrics import Metrics
from inference.gateway.reading import expand, is_large, read_call
from inference.gateway.requestlog import RequestLog
from inference.gateway.threads import Thread
from inference.routes import ModelRoute
from saas.lib import errors
from saas.lib.errors import AppError

log = logging.getLogger(__name__)

NO_SNIFFING = "x-content-type-options: nosniff\r\n"
LOOKUP_SECONDS = 10.0  # for a metadata route
R = TypeVar("R")
CLIENT_CLOSED = 499  # never sent: nginx' status for a client that left, in the log and the metrics


class Calls(Protocol):
    """What is used of inference.gateway.line.Gateway."""

    @property
    def access(self) -> Lookups: ...
    def submit(self, call: Call) -> None: ...
    def abandon(self, call: Call) -> None: ...


class Front:
    """Answers exchanges by way of `gateway`. One per process.

    `list_routes` gives the models that an organization may see (it may block), `is_ready` whether an answer could be given.
    """

    def __init__(
        self,
        gateway: Calls,
        *,
        list_routes: Callable[[UUID], list[ModelRoute]],
        is_ready: Callable[[], Awaitable[bool]],
        body_max: int = 16 << 20,
        timeout_default: float = 30.0,
        timeout_max: float = 60.0,
        request_log: RequestLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.gateway, self.body_max = gateway, body_max
        self.timeout_default, self.timeout_max = timeout_default, timeout_max
        self.log, self.metrics = request_log or RequestLog(), metrics or Metrics()
        self._thread = Thread("bodies")
        self._metadata = Metadata(gateway.access, list_routes, is_ready)

    # --- in

    def handle(self, exchange: Exchange) -> None:
        """Answer a complete request. `exchange.send` is called once, now or later, unless `abandon` is called first."""
        try:
            exchange.read_head()
            if exchange.target.kind in ("infer", "predict"):
                self._call(exchange)
            elif exchange.target.kind in self._metadata.kinds:
                exchange.task = asyncio.ensure_future(self._later(exchange, self._describe))
            else:
                raise targets.refusal(exchange.target)
        except Exception as error:
            self.refuse(exchange, error)

    def check_early(self, exchange: Exchange) -> AppError | None:
        """Why a request with a large body need not be read: what its head alone is refused for."""
        try:
            exchange.read_head()
            self.gateway.access.principal(headers.presented_key(exchange.headers))
        except AppError as error:
            return error
        return None

    def _call(self, exchange: Exchange) -> None:
        access, target = self.gateway.access, exchange.target
        key = exchange.proved
        if key is None or not access.is_current(key):
            key = access.principal(headers.presented_key(exchange.headers))
        exchange.key = key
        route = access.route(key, target.owner, target.name) if key else None
        if route is None or b"content-encoding" in exchange.headers or is_large(exchange, route):
            exchange.task = asyncio.ensure_future(self._later(exchange, self._looked_up))
        else:
            self._submit(exchange, self._read(exchange, route))

    async def _later(self, exchange: Exchange, go_on: Callable[[Exchange], Awaitable[None]]) -> None:
        try:
            await go_on(exchange)
        except Exception as error:
            self.refuse(exchange, error)

    async def _looked_up(self, exchange: Exchange) -> None:
        given = headers.timeout(exchange.headers.get(b"x-request-timeout"), self.timeout_default, self.timeout_max)
        try:
            async with asyncio.timeout(given):
                call = await self._read_later(exchange)
        except TimeoutError:
            raise errors.DeadlineExceeded(f"The request could not be read within {given:g} s") from None
        self._submit(exchange, call)

    async def _read_later(self, exchange: Exchange) -> Call:
        await exchange.find_key(self.gateway.access)
        route = await exchange.find_route(self.gateway.access, CALL_SCOPE)
        if encoding := exchange.headers.get(b"content-encoding"):
            expanding = self._in_thread(exchange, self.body_max, lambda: expand(exchange.body, encoding, self.body_max))
            exchange.body = await expanding
        if is_large(exchange, route):
            return await self._in_thread(exchange, len(exchange.body), lambda: self._read(exchange, route))
        return self._read(exchange, route)

    def _in_thread(self, exchange: Exchange, size: int, work: Callable[[], R]) -> "asyncio.Future[R]":
        """Do `work` for a body that takes long. Raises ConcurrencyLimited, CapacityExhausted."""
        assert exchange.key is not None
        return self._thread.run(exchange.key.organization, size, work)

    def _read(self, exchange: Exchange, route: ModelRoute) -> Call:
        return read_call(
            exchange, route, self.timeout_default, self.timeout_max, lambda _, outcome: self._done(exchange, outcome)
        )

    def _submit(self, exchange: Exchange, call: Call) -> None:
        exchange.call = call
        exchange.body = b""  # the tensors hold their own copy
        self.gateway.submit(call)

    async def _describe(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                body, status = await self._metadata.answer(exchange)
        except TimeoutError:
            raise errors.Unavailable("Models cannot be looked up right now; try again soon", retry_after=1) from None
        self._send(exchange, status, JSON_LINE, orjson.dumps(body))

    # --- out

    def _done(self, exchange: Exchange, outcome: Rendered | AppError) -> None:
        if exchange.is_ended:
            return  # its client left; a keyed call goes on without one
        if isinstance(outcome, AppError):
            self.refuse(exchange, outcome)
            return
        call = exchange.call
        # The cost of a keyed call and a receipt are among its headers: no other answer has the same.
        is_own = call is not None and (call.idempotency_key is not None or call.input_digest)
        head = (headers.joined if is_own else headers.lines)(tuple(outcome.headers))
        if call is not None:
            if call.idempotency_key is None:
                head += headers.cost_line(call.cost_nano, call.price.currency)
            if call.is_replay:
                head += b"idempotent-replayed: true\r\n"
            if call.left is not None:
                head += headers.left_lines(call.left, call.most_nano - call.cost_nano, call.price.currency)
            if call.key.terms.state in headers.ACCOUNT_LINES:
                head += headers.ACCOUNT_LINES[call.key.terms.state]
        self._send(exchange, outcome.status, head, outcome.body)

    def refuse(self, exchange: Exchange, error: Exception) -> None:
        """Answer with `error`; what is no AppError is our fault, is logged and not shown."""
        if exchange.is_ended:
            return
        if not isinstance(error, AppError):
            log.error("a call failed unexpectedly, request %s", exchange.request_id, exc_info=error)
            error = errors.InternalError()
        head, body = exchange.told(error)
        self._send(exchange, error.status, head, body, code=error.code)

    def _send(self, exchange: Exchange, status: int, head: bytes, body: bytes, *, code: str = "") -> None:
        exchange.is_ended = True
        call = exchange.call
        limits = headers.limit_lines(call.limits) if call is not None else b""
        ids = f"x-request-id: {exchange.request_id}\r\ntraceparent: {exchange.trace}\r\n{NO_SNIFFING}".encode()
        exchange.send(status, b"".join((head, ids, limits)), body)
        self._note(exchange, status, code, len(body))
        exchange.forget()

    def abandon(self, exchange: Exchange) -> None:
        """The client left before its answer: the call frees its place, unless an Idempotency-Key lets it end for the retry."""
        if exchange.is_ended:
            return
        exchange.is_ended = True
        exchange.identify()
        if exchange.task is not None:
            exchange.task.cancel()
        if exchange.call is not None:
            self.gateway.abandon(exchange.call)
        self._note(exchange, CLIENT_CLOSED, "client_closed_request", 0)
        exchange.call = None  # a keyed one goes on, and is rendered for the retry

    def _note(self, exchange: Exchange, status: int, code: str, bytes_out: int) -> None:
        """The log line and the counters of one request."""
        line = exchange.line(status, code, bytes_out)
        self.metrics.observe(line.method, line.route, status, code, line.total_ms / 1000, line.rows)
        self.log.add(line)
