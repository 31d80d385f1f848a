"""One HTTP connection. Hot requests go from the parser straight to the gateway and back; all others take uvicorn's way to ASGI.

Ours, for both kinds: limits on heads and bodies, deadlines for slow senders and readers, refusals as JSON, and a close that the
client can read the answer before. saas.feeding has requests come one after the other, however they were sent.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from inference.gateway.front import Front
from inference.gateway.targets import API, UNKNOWN, Target, target_of
from saas.exchanges import Ending, HotExchange
from saas.feeding import CHUNKED, UNTOLD, FedProtocol
from saas.lib import errors
from saas.lib.errors import AppError
from saas.repeats import MAX_MISSES, Head, raw_head
from saas.unread import Unread

HOT = (b"/v2/models/", b"/api/v1/models/")
HOT_KINDS = ("infer", "predict")
LARGE = 64 << 10  # bytes of a body, beyond which the head is checked before it is read
MAX_BODIES = 256 << 20  # bytes of large bodies that one process receives at the same time
HEAD_SECONDS = 10.0  # for the head; a body has what the head left of it
MIN_RATE = 16 << 10  # bytes per second of a body: each of them buys it time
PATIENCE = 30.0  # seconds that it can have bought at most, so that one that came fast and then stalls ends too
LINGER_SECONDS = 2.0  # after an answer before the request's end: read on, so that a reset does not destroy the answer
UNKNOWN_API = UNKNOWN._replace(dialect=API)


class FrontProtocol(FedProtocol):
    cycle: HotExchange | RequestResponseCycle | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # as uvicorn calls it
        super().__init__(*args, **kwargs)
        self.front: Front = self.app_state["front"]
        self.has_asked = False  # a whole request
        self.is_declining = False
        self.idle_since = 0.0
        self.due, self.paid = 0.0, 0  # loop time until which the message may take, and bytes of its body that counted for it
        self.hosts, self.coding = 0, b""  # of the head: Host headers, and the transfer codings
        self.closes_at = 0.0  # loop time; 0: not lingering
        self.head: Head | None = None  # of the latest request that may be repeated
        self.misses = 0  # heads that were remembered and then not repeated

    # --- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.idle_since, self.unread = self.loop.time(), Unread(transport)
        self.server_state.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: what runs for it is abandoned."""
        super().connection_lost(exc)
        cycle, self.head = self.cycle, None
        if type(cycle) is HotExchange:
            self.cycle = None  # it knows the connection, and this way nothing waits for the garbage collector
            if not cycle.response_complete:
                self._forget_body(cycle)
                self.front.abandon(cycle)
        elif isinstance(cycle, RequestResponseCycle) and not cycle.response_complete:
            abandon: Callable[[], None] | None = cycle.scope.get("abandon")  # type: ignore[assignment]  # saas.asgi put it there
            if abandon is not None:
                abandon()

    def data_received(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if self.rest:
            self.wait(data)
            return
        is_at_start = not self.reading_since
        if self.head is not None and is_at_start and self.head.starts(data) and not self.must_wait():
            self._repeat(self.head, data)
            return
        self.feed(data)
        if is_at_start and not self.rest and self.misses < MAX_MISSES:
            self._remember(data)

    def pause_writing(self) -> None:
        """The client reads slowly: its next requests wait in its own socket."""
        self.unread.begin(self.loop.time())
        self.flow.pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        self.unread.end()
        self.flow.resume_writing()
        self.flow.resume_reading()
        self.read_on()

    def shutdown(self) -> None:
        """The server stops: each answer from now on closes its connection; the sweep closes idle ones a little later."""
        self.idle_since = self.loop.time()
        if isinstance(self.cycle, RequestResponseCycle) and not self.cycle.response_started:
            self.cycle.keep_alive = False  # an answer whose head has promised to go on must keep its promise

    def sweep(self, now: float, passed: float, idle_seconds: float) -> None:
        """Close what is idle, trickles or lingers. Called about each second; `passed` is the time since the last sweep."""
        if self.closes_at:
            if now > self.closes_at:
                self.transport.abort()
        elif self.flow.write_paused or self.transport.is_closing():
            if not self.unread.since:
                self.unread.begin(now)
            elif self.unread.is_too_slow(now):
                self.transport.abort()
        elif self.reading_since:
            if self.flow.read_paused and not self.is_in_head:
                self.due += passed  # it waits for us
            elif self._is_slow(now):
                self.refuse_message(errors.RequestTimeout("The request arrived too slowly"))
        elif self._is_idle() and now - self.idle_since > idle_seconds:
            self.transport.close()

    def _is_slow(self, now: float) -> bool:
        if not self.is_in_head:
            self.due = min(self.due + (self.received - self.paid) / MIN_RATE, now + PATIENCE)
            self.paid = self.received
        return now > self.due

    def _is_idle(self) -> bool:
        return not (self.is_answering() or self.rest)

    def precedence(self) -> tuple[bool, float] | None:
        """As saas.room.Connection says."""
        is_sending = bool(self.reading_since) and not self.is_in_head  # a body
        if self.transport.is_closing() or self.flow.write_paused or not (is_sending or self._is_idle()):
            return None
        return self.has_asked, self.due - PATIENCE if is_sending else self.idle_since

    def drop(self) -> None:
        self.transport.abort()

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.content_length, self.hosts, self.coding = UNTOLD, 0, b""
        self.is_in_head, self.reading_since = True, self.loop.time()
        self.due, self.paid = self.reading_since + HEAD_SECONDS, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_head:
            return  # a trailer of a chunked body: nothing here reads them
        name = name.lower()
        if name == b"content-length":
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            self.content_length = CHUNKED
            self.coding = self.coding + b"," + value.lower() if self.coding else value.lower()
        elif name == b"host":
            self.hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if (error := self._fault_of_head()) is not None:
            self.refuse_message(error)
        self.is_in_head, self.received = False, 0
        self.is_declining = self.parser.should_upgrade()
        if self.is_declining or self.is_deaf or self.transport.is_closing():
            return
        if self.url.startswith(HOT):
            target = target_of(self.url)
            if target is not None and target.kind in HOT_KINDS:
                self._begin_hot(target)
                return
        self._begin_asgi()

    def _fault_of_head(self) -> AppError | None:
        """What the parser lets pass and RFC 9112 does not (sections 2.3, 3.2, 6.1)."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return errors.HttpVersionNotSupported(f"HTTP/{version} is not spoken here: use HTTP/1.1")
        if self.hosts > 1 or (not self.hosts and version == "1.1"):
            return errors.InvalidRequest(f"A request has one Host header, this one has {self.hosts}")
        if self.coding not in (b"", b"chunked") and self.coding.endswith(b"chunked"):  # others' length the parser cannot tell
            return errors.NotImplementedHere("The only Transfer-Encoding that is undone here is chunked")
        return None

    def on_body(self, body: bytes) -> None:
        self.received += len(body)
        hot = self.cycle
        if type(hot) is not HotExchange:
            if hot is not None and not self.is_deaf:
                super().on_body(body)
        elif not hot.response_complete:
            hot.chunks.append(body)
            hot.size += len(body)
            if hot.size > LARGE:
                self._weigh(hot, len(body))

    def on_message_complete(self) -> None:
        self.reading_since, self.received, self.has_asked = 0.0, 0, True
        if self.is_declining:
            return
        hot = self.cycle
        if type(hot) is not HotExchange:
            if hot is not None and not self.is_deaf:
                super().on_message_complete()
        elif not hot.response_complete:
            hot.is_received = True
            hot.body = hot.chunks[0] if len(hot.chunks) == 1 else b"".join(hot.chunks)
            self._forget_body(hot)
            self.front.handle(hot)

    def on_response_complete(self) -> None:
        """An answer is written: go on with what was read, or be idle. (uvicorn sets a timer here; the sweep is ours.)"""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.idle_since = self.loop.time()
        if self.flow.read_paused and not self.flow.write_paused:
            self.flow.resume_reading()
        if self.rest:
            self.read_on()

    # --- hot requests

    def _remember(self, data: bytes) -> None:
        """Keep the head of the request that `data` was, if it was one, whole, hot, and of a connection that stays."""
        hot = self.cycle
        if type(hot) is not HotExchange or not hot.is_received or not hot.keep_alive or self.expect_100_continue:
            return
        raw = raw_head(data, self.content_length)
        if raw is not None and (self.head is None or self.head.raw != raw):
            self.misses += self.head is not None
            self.head = Head(raw, len(data), hot.method, hot.url, hot.target, hot.request_headers)
            self.head.key = hot.key

    def _repeat(self, head: Head, data: bytes) -> None:
        """A whole request with the head of the one before."""
        self.misses = 0
        self.cycle = hot = HotExchange(self, head.method, head.url, head.target, keep_alive=True)
        hot.request_headers, hot.headers, hot.proved = head.sent, head.found, head.key
        hot.is_received, hot.body = True, data[len(head.raw) :]
        self.front.handle(hot)
        head.key = hot.key

    def _begin_hot(self, target: Target) -> None:
        keep_alive = self.parser.should_keep_alive()
        self.cycle = hot = HotExchange(self, self.parser.get_method(), self.url, target, keep_alive=keep_alive)
        length = self.content_length
        if length > self.front.body_max:
            self._refuse_body(hot)
        elif (length > LARGE or length == CHUNKED) and (error := self.front.check_early(hot)) is not None:
            self.front.refuse(hot, error)
        elif self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _weigh(self, hot: HotExchange, added: int) -> None:
        """A large body grows: hold it to the limits."""
        self.server_state.body_bytes += added
        hot.counted += added
        if hot.size > self.front.body_max:
            self._refuse_body(hot)
        elif self.server_state.body_bytes > MAX_BODIES:
            error = errors.CapacityExhausted("Too many large bodies are being received", retry_after=1, source="platform")
            self.front.refuse(hot, error)

    def _refuse_body(self, hot: HotExchange) -> None:
        limit = self.front.body_max
        self.front.refuse(hot, errors.PayloadTooLarge(f"The body may have {limit} bytes ({limit / (1 << 20):g} MiB) at most"))

    def _forget_body(self, hot: HotExchange) -> None:
        """Its chunks are not held here any more."""
        self.server_state.body_bytes -= hot.counted
        hot.counted, hot.chunks = 0, []

    def answer(self, hot: HotExchange, status: int, head: bytes, body: bytes) -> None:
        """Write the answer of `hot` and go on, or end the connection."""
        self._forget_body(hot)
        transport, state = self.transport, self.server_state
        if transport.is_closing():
            return
        closes = not hot.keep_alive or not hot.is_received or state.is_draining
        last = b"connection: close\r\n\r\n" if closes else b"\r\n"
        length = b"content-length: %d\r\n" % len(body)
        shown = b"" if hot.method == b"HEAD" else body
        self.unread.written = len(shown)
        if len(shown) > LARGE:
            transport.writelines([b"".join((STATUS_LINE[status], state.date_line, head, length, last)), shown])
        else:
            transport.write(b"".join((STATUS_LINE[status], state.date_line, head, length, last, shown)))
        if not hot.is_received:
            self.linger()
        elif closes:
            transport.close()
        self.on_response_complete()

    def linger(self) -> None:
        """End after an answer that came before the request's end: no more is written, what comes is thrown away for a while."""
        self.is_deaf, self.reading_since = True, 0.0
        self.closes_at = self.loop.time() + LINGER_SECONDS
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # --- all others

    def _begin_asgi(self) -> None:
        url, sent, expect, length = self.url, self.headers, self.expect_100_continue, self.content_length
        super().on_message_begin()
        self.url, self.expect_100_continue, self.content_length = url, expect, length
        self.headers.extend(sent)
        super().on_headers_complete()
        assert isinstance(self.cycle, RequestResponseCycle)
        self.cycle.transport = Ending(self, self.cycle)  # type: ignore[assignment]  # all that a cycle uses of a transport
        if self.server_state.is_draining:
            self.cycle.keep_alive = False

    def refuse_message(self, error: AppError) -> None:
        """The message that is being received cannot be: say so unless it has an answer already, and end the connection."""
        cycle = self.cycle
        if self.transport.is_closing():
            return
        if self.is_in_head or not self.reading_since:
            self._refuse_head(error)
        elif type(cycle) is HotExchange and not cycle.response_complete:
            self.front.refuse(cycle, error)
        elif isinstance(cycle, RequestResponseCycle) and not cycle.response_started:
            cycle.disconnected = True  # the application waits for the body
            cycle.message_event.set()
            self._refuse_head(error)
        elif cycle is not None and not cycle.response_complete:
            self.is_deaf, self.reading_since = True, 0.0
            cycle.keep_alive = False
        else:
            self.transport.close()

    def _refuse_head(self, error: AppError) -> None:
        """Answer a message that never became a request."""
        target = UNKNOWN if self.url.startswith(b"/v2") else UNKNOWN_API
        hot = HotExchange(self, b"", self.url, target, keep_alive=False)
        self.front.refuse(hot, error)
