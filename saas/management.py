"""What goes to Django: a request gets a thread once its body is here and it is its caller's turn.

So neither a body that trickles nor one caller's many requests keep the others waiting. An upload comes to Django twice: its
head, to be refused or admitted before its body is read, and the whole of it once that has arrived (saas.spools).
"""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from a2wsgi import WSGIMiddleware

from inference.gateway.metrics import Metrics
from saas.callers import Caller, Callers, Known, organization
from saas.lib import ids
from saas.lib.errors import AppError, CapacityExhausted, ConcurrencyLimited, PayloadTooLarge
from saas.spools import Admitted, Spools
from saas.turns import Turns, strangers
from tenants.problems import CONTENT_TYPE, problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

PRESENT, PRESENT_EACH = 512, 64  # requests that are received, wait or run: of all callers, of one
UPLOADS, UPLOADS_EACH = 8, 2  # whole uploads that are taken in, each in a thread: of all organizations, of one
LARGE = 1 << 20  # bytes of a body that waits for its turn among large ones: what is made of it can be ten times as large
LARGE_PLACES = 2  # of these in threads, one of each caller
LARGEST = 8 << 20  # bytes of a body at least: what settings.DATA_UPLOAD_MAX_MEMORY_SIZE allows a form
MAX_BYTES, SHARE_BYTES = 256 << 20, 64 << 20  # of bodies in memory: of all callers, of one
_UPLOAD = re.compile(r"/api/v1/models/.+/versions/?").fullmatch


def nobody(presented: str) -> None:
    """Knows no key."""


class Management:
    """Answers with `wsgi` in `threads` threads, one caller has half at most. Bodies have `body_max` bytes, or LARGEST;
    uploads under way have `spool_bytes` together.
    """

    def __init__(self, wsgi: Any, *, threads: int, body_max: int, spool_bytes: int) -> None:  # Any: a2wsgi has types of its own
        self._django: Any = WSGIMiddleware(wsgi, workers=threads)
        self._uploader: Any = WSGIMiddleware(partial(from_file, wsgi), workers=UPLOADS)
        self._callers = Callers()
        self._turns = Turns(threads, each=max(1, threads // 2), present=PRESENT, present_each=PRESENT_EACH)
        self._uploads = Turns(UPLOADS, each=UPLOADS_EACH, present=PRESENT, present_each=PRESENT_EACH)
        self._large = Turns(LARGE_PLACES, each=1, present=PRESENT, present_each=PRESENT_EACH)
        self._bodies = Bodies(max(body_max, LARGEST))
        self._spools = Spools(spool_bytes)

    async def answer(self, scope: Scope, receive: Receive, send: Send, metrics: Metrics, known: Known = nobody) -> None:
        """Answer a request; `known` tells which keys were proved by calls."""
        began = scope["began"] = time.perf_counter()
        scope["count"] = partial(count, asyncio.get_running_loop(), metrics, began)
        try:
            caller = self._callers.of(scope, known)
            if scope["method"] == "POST" and _UPLOAD(scope["path"]):
                await self._upload(caller, scope, receive, send)
            else:
                with self._turns.presence(caller):
                    await self._in_turn(caller, scope, receive, send)
        except AppError as error:
            metrics.observe(scope["method"], "", error.status, error.code, time.perf_counter() - began)
            await refuse(error, scope, send)

    async def _in_turn(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._bodies.received(caller, scope, receive) as body:
            if body is None:
                return
            gone = asyncio.ensure_future(_gone(receive))
            scope["watch_client"] = lambda: gone.done
            try:
                leave = await self._large.turn(caller, gone) if len(body[0]) > LARGE else _no_place
                if leave is None:
                    return
                scope["done_with_body"] = partial(asyncio.get_running_loop().call_soon_threadsafe, leave)
                try:
                    async with self._turns.place(caller, gone) as is_mine:
                        if is_mine:
                            await self._django(scope, partial(_whole, body), send)
                finally:
                    leave()
            finally:
                gone.cancel()

    async def _upload(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        admitted = await self._admitted(caller, scope, send)
        if admitted is None:
            return
        async with self._spools.received(admitted, receive) as file:
            if file is None:
                return
            gone = asyncio.ensure_future(_gone(receive))
            try:
                async with self._uploads.place(Caller(organization(admitted.organization), False), gone) as is_mine:
                    if is_mine:
                        await self._uploader({**scope, "file": file}, _nothing, send)
            finally:
                gone.cancel()

    async def _admitted(self, caller: Caller, scope: Scope, send: Send) -> Admitted | None:
        """Have Django look at the head alone. None: it has refused, and its answer is sent."""
        found: list[Admitted] = []
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        waits = asyncio.get_running_loop().create_future()  # for nobody: who leaves now is found out when the body is read
        with self._turns.presence(caller):
            async with self._turns.place(caller, waits):
                await self._django({**scope, "admit": lambda *admitted: found.append(Admitted(*admitted))}, _nothing, keep)
        if found:
            return found[0]
        if b"expect" in dict(scope["headers"]):  # the client sends no body now, and nothing else can follow this head
            answer[0]["headers"] = [*answer[0]["headers"], (b"connection", b"close")]
        for message in answer:
            await send(message)
        return None


def from_file(wsgi: Any, environ: Any, start_response: Any) -> Any:  # Any: WSGI's types
    """Have `wsgi` read the request's body from the file that it was received in."""
    file = environ["asgi.scope"]["file"]
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = file, str(file.seek(0, 2))
    file.seek(0)
    return wsgi(environ, start_response)


class Bodies:
    """The bodies in memory, of `largest` bytes each at most."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._held: Counter[Caller] = Counter()  # bytes

    @asynccontextmanager
    async def received(self, caller: Caller, scope: Scope, receive: Receive) -> AsyncIterator[list[bytes] | None]:
        """The request's whole body, for whoever takes it out of the list; None if the client left.

        Raises PayloadTooLarge, ConcurrencyLimited, CapacityExhausted.
        """
        declared = int(dict(scope["headers"]).get(b"content-length", b"0"))
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                if max(declared, size) > self._largest:
                    raise PayloadTooLarge(f"The body may have {self._largest} bytes at most")
                message = await receive()
                if message["type"] == "http.disconnect":
                    yield None
                    return
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                self._hold(caller, len(chunks[-1]))
                more = message.get("more_body", False)
            chunks[:] = [b"".join(chunks)]
            yield chunks
        finally:
            chunks.clear()  # an error on its way knows them too
            self._held[caller] -= size
            if not self._held[caller]:
                del self._held[caller]

    def _hold(self, caller: Caller, size: int) -> None:
        self._held[caller] += size
        if self._held[caller] > max(SHARE_BYTES, self._largest):
            raise ConcurrencyLimited("Too many large requests are under way: wait for answers", retry_after=1)
        is_full = self._held.total() > MAX_BYTES
        if is_full or (caller.is_stranger and strangers(self._held) > MAX_BYTES // 2):
            raise CapacityExhausted("Too many large requests are under way", retry_after=1, source="platform")


def count(
    loop: asyncio.AbstractEventLoop, metrics: Metrics, began: float, method: str, route: str, status: int, code: str
) -> None:
    """Count a request that a thread of Django has answered, on the loop: the counters are for one thread."""
    loop.call_soon_threadsafe(metrics.observe, method, route, status, code, time.perf_counter() - began)


async def refuse(error: AppError, scope: Scope, send: Send) -> None:
    """Answer with problem details; a connection whose body was not read ends."""
    given = dict(scope["headers"])
    request_id, (_, trace) = ids.request_id(given.get(b"x-request-id")), ids.trace(given.get(b"traceparent"))
    extra = []
    if error.retry_after is not None:
        extra.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if given.keys() & {b"content-length", b"transfer-encoding"}:
        extra.append((b"connection", b"close"))
    body = orjson.dumps(problem(error, request_id))
    await respond(send, request_id, trace, error.status, CONTENT_TYPE.encode(), body, extra=extra)


async def respond(
    send: Send, request_id: str, trace: str, status: int, content_type: bytes, body: bytes, *, extra: Headers = ()
) -> None:
    """Send a whole answer that is not Django's."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    headers += [
        (b"x-request-id", request_id.encode()),
        (b"traceparent", trace.encode()),
        (b"x-content-type-options", b"nosniff"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _gone(receive: Receive) -> None:
    """Return when the client of a request that was received has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(body: list[bytes]) -> Message:
    return {"type": "http.request", "body": body.pop() if body else b"", "more_body": False}


async def _nothing() -> Message:
    return await _whole([])


def _no_place() -> None:
    """Gives none back."""
