"""The gateway's HTTP, whichever way a request came: from the protocol at once (saas/server.py) or through ASGI (saas/asgi.py).

A hot request falls straight down: head → key → model → tensors → `Gateway.submit`, and its answer comes back by callback, all
without a task. Only what memory does not know, compressed or large bodies and the metadata routes take a task.
"""

import asyncio
import hashlib
import logging
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qsl
from uuid import UUID

import orjson

from inference.gateway import friendly, headers, targets, v2
from inference.gateway.call import Call, Rendered
from inference.gateway.headers import Headers
from inference.gateway.metrics import Metrics
from inference.gateway.requestlog import Line, RequestLog
from inference.gateway.targets import Target
from inference.lanes import Reply
from inference.routes import ModelRoute, VersionRoute
from saas.lib import errors
from saas.lib.errors import AppError
from saas.lib.ids import request_id
from tenants.principal import KeyRecord
from tenants.problems import problem

log = logging.getLogger(__name__)

METADATA_SCOPE = "models:read"
LOOKUP_SECONDS = 10.0  # for a key or model that memory does not know
JSON_LINE = b"content-type: application/json\r\n"
PROBLEM_LINE = b"content-type: application/problem+json\r\n"
LARGE_JSON = 256 << 10  # bytes from which a body is read in a thread: a millisecond's work for the loop
CLIENT_CLOSED = 499  # never sent: nginx' status for a client that left, in the log and the metrics


class Calls(Protocol):
    """What is used of inference.gateway.line.Gateway."""

    def principal(self, presented: str) -> KeyRecord | None: ...
    async def fetch_principal(self, presented: str) -> KeyRecord: ...
    def route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = ...) -> ModelRoute | None: ...
    async def fetch_route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = ...) -> ModelRoute: ...
    def submit(self, call: Call) -> None: ...
    def abandon(self, call: Call) -> None: ...


class Exchange:
    """One request and its answer. Whoever makes it implements `send`, and sets `body` before it is handled."""

    __slots__ = (
        "ask",
        "began",
        "body",
        "call",
        "headers",
        "is_ended",
        "key",
        "method",
        "request_headers",
        "request_id",
        "route",
        "target",
        "task",
        "trace",
        "trace_id",
        "url",
        "version",
    )
    ask: v2.Infer | friendly.Predict
    headers: dict[bytes, bytes]

    def __init__(self, method: bytes, url: bytes, target: Target, request_headers: Headers) -> None:
        self.method, self.url, self.target, self.request_headers = method, url, target, request_headers
        self.body: bytes = b""
        self.began = time.perf_counter()
        self.request_id = self.trace_id = self.trace = ""
        self.key: KeyRecord | None = None
        self.route: ModelRoute | None = None
        self.version: VersionRoute | None = None
        self.call: Call | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_ended = False

    def send(self, status: int, head: bytes, body: bytes) -> None:
        """Send the answer; `head` are header lines without Content-Length, Date and Connection. Called once."""
        raise NotImplementedError

    def render(self, call: Call, reply: Reply) -> Rendered:
        """The call's answer, as its dialect says it. Raises AppError only."""
        try:
            if isinstance(self.ask, v2.Infer):
                return v2.render_infer(self.ask, self.target.called, call, reply)
            return friendly.render_predict(self.ask, self.target.called, call, reply)
        except AppError:
            raise
        except Exception as error:
            log.error("an answer could not be rendered, request %s", self.request_id, exc_info=error)
            raise errors.InternalError() from error


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
        self._list_routes, self._is_ready = list_routes, is_ready
        self._cold = {
            "server": self._server,
            "live": self._live,
            "ready": self._ready,
            "index": self._index,
            "metadata": self._metadata,
            "model_ready": self._model_ready,
        }

    # --- in

    def handle(self, exchange: Exchange) -> None:
        """Answer a complete request. `exchange.send` is called once, now or later, unless `abandon` is called first."""
        try:
            self.read_head(exchange)
            if exchange.target.kind in ("infer", "predict"):
                self._call(exchange)
            elif exchange.target.kind in self._cold:
                exchange.task = asyncio.ensure_future(self._later(exchange, self._cold[exchange.target.kind]))
            else:
                raise targets.not_found(exchange.target)
        except Exception as error:
            self.refuse(exchange, error)

    def read_head(self, exchange: Exchange) -> None:
        """Read ids and check the method. Raises InvalidRequest, MethodNotAllowed. May be called twice."""
        self._identify(exchange)
        if len(exchange.headers) != len(exchange.request_headers):
            headers.check_single(exchange.request_headers)
        method = exchange.target.method
        if exchange.method != method and method and not (exchange.method == b"HEAD" and method == b"GET"):
            raise errors.MethodNotAllowed(f"This route takes {method.decode()}")

    @staticmethod
    def _identify(exchange: Exchange) -> None:
        """Headers by name, and the ids; once."""
        if not exchange.request_id:
            exchange.headers = found = dict(exchange.request_headers)
            exchange.request_id = request_id(found.get(b"x-request-id"))
            exchange.trace_id, exchange.trace = headers.trace(found.get(b"traceparent"))

    def check_early(self, exchange: Exchange) -> AppError | None:
        """Why a request with a large body need not be read: what its head alone is refused for."""
        try:
            self.read_head(exchange)
            self.gateway.principal(headers.presented_key(exchange.headers))
        except AppError as error:
            return error
        return None

    def _call(self, exchange: Exchange) -> None:
        key = self.gateway.principal(headers.presented_key(exchange.headers))
        exchange.key = key
        target = exchange.target
        route = self.gateway.route(key, target.owner, target.name) if key else None
        if route is None or b"content-encoding" in exchange.headers or is_large(exchange):
            exchange.task = asyncio.ensure_future(self._later(exchange, self._looked_up))
        else:
            self._submit(exchange, self._read(exchange, route))

    async def _looked_up(self, exchange: Exchange) -> None:
        route = await self._route(exchange, "predictions:write")
        loop = asyncio.get_running_loop()
        if encoding := exchange.headers.get(b"content-encoding"):
            exchange.body = await loop.run_in_executor(None, expand, exchange.body, encoding, self.body_max)
        if is_large(exchange):
            self._submit(exchange, await loop.run_in_executor(None, self._read, exchange, route))
        else:
            self._submit(exchange, self._read(exchange, route))

    async def _key(self, exchange: Exchange) -> KeyRecord:
        presented = headers.presented_key(exchange.headers)
        exchange.key = self.gateway.principal(presented) or await self.gateway.fetch_principal(presented)
        return exchange.key

    async def _route(self, exchange: Exchange, scope: str) -> ModelRoute:
        key, target = await self._key(exchange), exchange.target
        route = self.gateway.route(key, target.owner, target.name, scope=scope)
        return route or await self.gateway.fetch_route(key, target.owner, target.name, scope=scope)

    def _read(self, exchange: Exchange, route: ModelRoute) -> Call:
        """The call that the body asks for, checked against the version's signature. Raises what a dialect raises.

        A large body is read in a thread: nothing here touches the loop.
        """
        found, target = exchange.headers, exchange.target
        exchange.route = route
        exchange.version = version = callable_version(route, target)
        timeout = headers.timeout(found.get(b"x-request-timeout"), self.timeout_default, self.timeout_max)
        idempotency_key = headers.idempotency_key(found.get(b"idempotency-key"))
        ask: v2.Infer | friendly.Predict
        if target.kind == "infer":
            ask = v2.read_infer(exchange.body, found.get(b"inference-header-content-length"), version)
            top = 0
        else:
            content_type = found.get(b"content-type", b"").decode("latin-1")
            ask = friendly.read_predict(exchange.body, content_type, top_in(exchange.url), route, version)
            top = ask.top or 1
        assert exchange.key is not None
        exchange.ask = ask
        return Call(
            key=exchange.key,
            route=route,
            version=version,
            endpoint=target.kind,
            rows=ask.rows,
            render=exchange.render,
            done=lambda _, outcome: self._done(exchange, outcome),
            inputs=ask.inputs,
            items=ask.items,
            outputs=ask.outputs,
            top=top,
            bytes_in=len(exchange.body),
            timeout=timeout,
            request_id=exchange.request_id,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint(exchange) if idempotency_key is not None else b"",
        )

    def _submit(self, exchange: Exchange, call: Call) -> None:
        exchange.call = call
        exchange.body = b""  # the tensors hold their own copy
        self.gateway.submit(call)

    # --- out

    def _done(self, exchange: Exchange, outcome: Rendered | AppError) -> None:
        if exchange.is_ended:
            return  # its client left; a keyed call goes on without one
        if isinstance(outcome, AppError):
            self.refuse(exchange, outcome)
            return
        head = headers.lines(tuple(outcome.headers))
        if exchange.call is not None and exchange.call.is_replay:
            head += b"idempotent-replayed: true\r\n"
        self._send(exchange, outcome.status, head, outcome.body)

    def refuse(self, exchange: Exchange, error: Exception) -> None:
        """Answer with `error`; what is no AppError is our fault, is logged and not shown."""
        if exchange.is_ended:
            return
        self._identify(exchange)
        if not isinstance(error, AppError):
            log.error("a call failed unexpectedly, request %s", exchange.request_id, exc_info=error)
            error = errors.InternalError()
        if exchange.target.dialect == targets.V2:
            body = {"error": error.detail, "code": error.code, "request_id": exchange.request_id}
            if error.source is not None:
                body["limit_source"] = error.source
            head = JSON_LINE
        else:
            body, head = problem(error, exchange.request_id), PROBLEM_LINE
        head += headers.error_lines(error, exchange.target.method)
        if exchange.version is not None:
            head += b"x-model-version: %b\r\n" % exchange.version.number.encode()
        self._send(exchange, error.status, head, orjson.dumps(body), code=error.code)

    def _send(self, exchange: Exchange, status: int, head: bytes, body: bytes, *, code: str = "") -> None:
        exchange.is_ended = True
        call = exchange.call
        limits = headers.limit_lines(call.limits) if call is not None else b""
        ids = f"x-request-id: {exchange.request_id}\r\ntraceparent: {exchange.trace}\r\n".encode()
        exchange.send(status, b"".join((head, ids, limits)), body)
        self._note(exchange, status, code, len(body))
        exchange.call = None  # it knows the exchange: without this, only the garbage collector would free the two

    def abandon(self, exchange: Exchange) -> None:
        """The client left before its answer: the call frees its place, unless an Idempotency-Key lets it end for the retry."""
        if exchange.is_ended:
            return
        exchange.is_ended = True
        self._identify(exchange)
        if exchange.task is not None:
            exchange.task.cancel()
        if exchange.call is not None:
            self.gateway.abandon(exchange.call)
        self._note(exchange, CLIENT_CLOSED, "client_closed_request", 0)
        exchange.call = None

    def _note(self, exchange: Exchange, status: int, code: str, bytes_out: int) -> None:
        """The log line and the counters of one request."""
        seconds = time.perf_counter() - exchange.began
        key, call, route = exchange.key, exchange.call, exchange.route
        method, kind = exchange.method.decode("latin-1"), exchange.target.kind
        reply = call.reply if call is not None else None
        rows = call.rows if call is not None else 0
        self.metrics.observe(method, kind, status, code, seconds, rows)
        self.log.add(
            Line(
                exchange.request_id,
                exchange.trace_id,
                key.slug if key is not None else "",
                key.public_id if key is not None else "",
                route.full_name if route is not None else "",
                exchange.version.number if exchange.version is not None else "",
                method,
                kind,
                status,
                code,
                rows,
                call.bytes_in if call is not None else 0,
                bytes_out,
                reply.queue_us / 1000 if reply is not None else 0.0,
                reply.compute_us / 1000 if reply is not None else 0.0,
                seconds * 1000,
            )
        )

    # --- metadata routes, each in a task

    async def _later(self, exchange: Exchange, answer: Callable[[Exchange], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                await answer(exchange)
        except TimeoutError:
            self.refuse(exchange, errors.Unavailable("Keys and models cannot be looked up right now", retry_after=1))
        except Exception as error:
            self.refuse(exchange, error)

    def _answer(self, exchange: Exchange, body: Any, status: int = 200) -> None:  # Any: JSON
        self._send(exchange, status, JSON_LINE, orjson.dumps(body))

    async def _server(self, exchange: Exchange) -> None:
        self._answer(exchange, v2.SERVER)

    async def _live(self, exchange: Exchange) -> None:
        self._answer(exchange, {"live": True})

    async def _ready(self, exchange: Exchange) -> None:
        is_ready = await self._is_ready()
        self._answer(exchange, {"ready": is_ready}, 200 if is_ready else 503)

    async def _index(self, exchange: Exchange) -> None:
        key = await self._key(exchange)
        if METADATA_SCOPE not in key.scopes:
            raise errors.ScopeMissing(f"The key has no scope {METADATA_SCOPE}; give it one, or use another key")
        is_ready_only = v2.read_index(exchange.body)
        loop = asyncio.get_running_loop()
        routes = await loop.run_in_executor(None, self._list_routes, UUID(hex=key.organization))
        if key.models is not None:
            routes = [route for route in routes if route.name in key.models or route.full_name in key.models]
        self._answer(exchange, v2.repository_index(routes, own=key.slug, is_ready_only=is_ready_only))

    async def _metadata(self, exchange: Exchange) -> None:
        route = await self._route(exchange, METADATA_SCOPE)
        exchange.route, exchange.version = route, known_version(route, exchange.target)
        self._answer(exchange, v2.metadata(exchange.target.called, route, exchange.version))

    async def _model_ready(self, exchange: Exchange) -> None:
        route = await self._route(exchange, METADATA_SCOPE)
        exchange.route, exchange.version = route, known_version(route, exchange.target)
        self._answer(exchange, {"name": exchange.target.called, "ready": exchange.version.state == "ready"})


def known_version(route: ModelRoute, target: Target) -> VersionRoute:
    """The version that the path names. Raises NotFound."""
    version = route.version(target.version)
    if version is None:
        if target.version is None:
            raise errors.NotFound(f"{route.full_name} has no version in production yet")
        raise errors.NotFound(f"{route.full_name} has no version or alias {target.version[:100]}")
    return version


def callable_version(route: ModelRoute, target: Target) -> VersionRoute:
    """The same, if it can be called. Raises NotFound, StateConflict."""
    version = known_version(route, target)
    if version.state != "ready":
        raise errors.StateConflict(f"Version {version.number} of {route.full_name} is {version.state}, not ready")
    return version


def is_large(exchange: Exchange) -> bool:
    """Whether reading the body takes so long that the loop must not wait for it. Binary tensors are not read, only cut."""
    size = len(exchange.body)
    if size > LARGE_JSON and exchange.target.kind == "infer":
        head = exchange.headers.get(b"inference-header-content-length", b"")
        return not head.isdigit() or len(head) > 9 or int(head) > LARGE_JSON
    return size > LARGE_JSON


def fingerprint(exchange: Exchange) -> bytes:
    """What an Idempotency-Key stands for: method, path and body."""
    return hashlib.sha256(b"\n".join((exchange.method, exchange.url, exchange.body))).digest()


def top_in(url: bytes) -> str | None:
    """The query parameter `top`; a form without JSON has no other place for it."""
    if b"?" not in url:
        return None
    return dict(parse_qsl(url.partition(b"?")[2].decode("latin-1"))).get("top")


def expand(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its Content-Encoding, at most `limit` bytes. Raises PayloadTooLarge, InvalidRequest."""
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in (b"gzip", b"deflate"):
        raise errors.UnsupportedMediaType("Content-Encoding must be gzip, deflate or identity")
    expander = zlib.decompressobj(31 if name == b"gzip" else 15)
    try:
        expanded = expander.decompress(body, limit + 1)
    except zlib.error:
        raise errors.InvalidRequest(f"The body is not valid {name.decode()}") from None
    if len(expanded) > limit:
        raise errors.PayloadTooLarge(f"The expanded body is larger than {limit} bytes")
    if not expander.eof or expander.unused_data:
        raise errors.InvalidRequest(f"The {name.decode()} body is truncated, or something follows it")
    return expanded
