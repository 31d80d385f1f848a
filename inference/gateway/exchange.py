"""One request and its answer, whichever way it came: at once from the protocol (saas/protocol.py) or by ASGI (saas/asgi.py)."""

import asyncio
import time
from typing import Any, Protocol

import orjson

from inference.gateway import friendly, headers, targets, v2
from inference.gateway.call import Call, Rendered
from inference.gateway.headers import Headers
from inference.gateway.requestlog import Line
from inference.gateway.targets import Target
from inference.lanes import Reply
from inference.routes import ModelRoute, VersionRoute
from saas.lib import errors
from saas.lib.errors import AppError
from saas.lib.ids import request_id, trace
from tenants.principal import KeyRecord
from tenants.problems import problem

JSON_LINE = b"content-type: application/json\r\n"
UNREAD: dict[bytes, bytes] = {}
FORGOTTEN = v2.Infer([], 0)
PROBLEM_LINE = b"content-type: application/problem+json\r\n"


class Lookups(Protocol):
    """What is used of inference.gateway.access.Access."""

    def principal(self, presented: str) -> KeyRecord | None: ...
    def is_current(self, record: KeyRecord) -> bool: ...
    async def fetch_principal(self, presented: str, address: str) -> KeyRecord: ...
    def allow(self, key: KeyRecord) -> None: ...
    def route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = ...) -> ModelRoute | None: ...
    async def fetch_route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = ...) -> ModelRoute: ...


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
        "proved",
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

    def __init__(self, method: bytes, url: bytes, target: Target, request_headers: Headers) -> None:
        self.method, self.url, self.target, self.request_headers = method, url, target, request_headers
        self.body: bytes = b""
        self.headers = UNREAD
        self.proved: KeyRecord | None = None  # the very same headers were proved against it before
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

    def forget(self) -> None:
        """It has ended, and its connection keeps it until the next one: its tensors and its call go now."""
        self.body, self.ask, self.call = b"", FORGOTTEN, None

    def address(self) -> str:
        """The host that sent it."""
        return ""

    def render(self, call: Call, reply: Reply) -> Rendered:
        """The call's answer, as its dialect says it. Raises AppError."""
        if isinstance(self.ask, v2.Infer):
            return v2.render_infer(self.ask, self.target.called, call, reply)
        return friendly.render_predict(self.ask, self.target.called, call, reply)

    def identify(self) -> None:
        """Read the headers by name, and the ids; once."""
        if not self.request_id:
            if self.headers is UNREAD:
                self.headers = dict(self.request_headers)
            found = self.headers
            self.request_id = request_id(found.get(b"x-request-id"))
            self.trace_id, self.trace = trace(found.get(b"traceparent"))

    def read_head(self) -> None:
        """Read ids and check the method. Raises InvalidRequest, MethodNotAllowed. May be called twice."""
        self.identify()
        if len(self.headers) != len(self.request_headers):
            headers.check_single(self.request_headers)
        method = self.target.method
        if self.method != method and method and not (self.method == b"HEAD" and method == b"GET"):
            raise errors.MethodNotAllowed(f"This route takes {method.decode()}")

    async def find_key(self, access: Lookups) -> KeyRecord:
        """Who asks, whose allowance this takes from. Raises ApiKeyMissing, ApiKeyInvalid, RateLimited, Unavailable."""
        self.key = await access.fetch_principal(headers.presented_key(self.headers), self.address())
        access.allow(self.key)
        return self.key

    async def find_route(self, access: Lookups, scope: str) -> ModelRoute:
        """The model that the path names for who asks. Raises ScopeMissing, ModelNotAllowed, NotFound, Unavailable."""
        assert self.key is not None
        return await access.fetch_route(self.key, self.target.owner, self.target.name, scope=scope)

    def told(self, error: AppError) -> tuple[bytes, bytes]:
        """(header lines, body) of a refusal, as the dialect says it."""
        self.identify()
        if self.target.dialect == targets.V2:
            body: dict[str, Any] = {"error": error.detail, "code": error.code, "request_id": self.request_id}  # Any: JSON
            if error.source is not None:
                body["limit_source"] = error.source
            if error.cap is not None:
                body["cap"] = error.cap
            head = JSON_LINE
        else:
            body, head = problem(error, self.request_id), PROBLEM_LINE
        head += headers.error_lines(error, self.target.method)
        if self.version is not None:
            head += b"x-model-version: %b\r\n" % self.version.number.encode()
        return head, orjson.dumps(body)

    def line(self, status: int, code: str, bytes_out: int) -> Line:
        """What the log says of it, now that it ends."""
        key, call, route = self.key, self.call, self.route
        reply = call.reply if call is not None else None
        return Line(
            self.request_id,
            self.trace_id,
            key.slug if key is not None else "",
            key.public_id if key is not None else "",
            route.full_name if route is not None else "",
            self.version.number if self.version is not None else "",
            self.method.decode("latin-1"),
            self.target.kind,
            status,
            code,
            call.rows if call is not None else 0,
            call.bytes_in if call is not None else 0,
            bytes_out,
            reply.queue_us / 1000 if reply is not None else 0.0,
            reply.compute_us / 1000 if reply is not None else 0.0,
            (time.perf_counter() - self.began) * 1000,
        )
