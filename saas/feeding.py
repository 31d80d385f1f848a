"""What a connection has read goes to its parser in small pieces, one request at a time.

A single read can hold thousands of requests. Parsed at once they would hold the loop, and with it everybody else's calls, for
seconds; so a request is parsed only once the one before it is answered, and what waits takes turns with other connections.
"""

import asyncio
import logging
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from saas.lib import errors
from saas.lib.errors import AppError
from saas.server import State

log = logging.getLogger(__name__)

END = b"\r\n\r\n"  # of a head, and of a chunked body: the parser takes no bare line feeds
UNTOLD, CHUNKED = -1, -2  # for a Content-Length
MAX_HEAD = 64 << 10  # bytes of a request's line and headers
PIECE = 1 << 10  # bytes that are parsed at once, unless they are of a body whose length is told
PIECES = 16  # that one connection has parsed in its turn
MAX_READ = 64 << 10  # bytes of one connection that wait to be parsed, beyond which it is not read
MAX_WAITING = 128 << 20  # the same of all connections of a process


class Flow(FlowControl):
    """Nothing is read while the exchange under way asks for that, nor while too much that was read is not parsed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_asked = self._is_full = False

    def pause_reading(self) -> None:
        self._is_asked = True
        super().pause_reading()

    def resume_reading(self) -> None:
        self._is_asked = False
        if not self._is_full:
            super().resume_reading()

    def fill(self, is_full: bool) -> None:
        """Say whether too much that was read is not parsed."""
        self._is_full = is_full
        if self._transport.is_closing():
            return
        if is_full:
            super().pause_reading()
        elif not self._is_asked:
            super().resume_reading()


class FedProtocol(HttpToolsProtocol):
    """Feeds the parser. Its callbacks are saas.protocol's, which answers what they find."""

    cycle: Any  # HotExchange, uvicorn's RequestResponseCycle, or None; uvicorn knows only its own
    flow: Flow
    server_state: State

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # as uvicorn calls it
        super().__init__(*args, **kwargs)
        self.is_deaf = False  # what still comes is not read
        self.is_in_head = False
        self.reading_since = 0.0  # loop time at which a message began that is not complete; 0: none
        self.received = 0  # bytes of its head and of line feeds before it, then of its body
        self.content_before = self.overhead = 0  # of a chunked body: `received`, and how many bytes did not raise it since
        self.url, self.headers, self.content_length = b"", [], UNTOLD
        self.rest, self.at = b"", 0  # what was read and, from this place on, is not parsed
        self.is_queued = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.flow = Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep(b"", 0)
        super().connection_lost(exc)

    def is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def read_on(self) -> None:
        """Have what waits parsed when it is this connection's turn, unless an answer has to be given or read first."""
        if self.rest and not self.is_queued and not self.must_wait():
            self.is_queued = True
            self.server_state.turns.add(self.parse)

    def parse(self) -> None:
        """It is this connection's turn."""
        self.is_queued = False
        if self.rest:
            self.feed(self.rest, self.at)

    def feed(self, data: bytes, at: int = 0) -> None:
        """Parse `data` from `at` on: up to the end of one request, and PIECES at most; what is left waits."""
        for _ in range(PIECES):
            if self.reading_since and self.content_length >= 0 and not self.is_in_head:
                end = at + self.content_length - self.received
                piece = data[at:end] if at or end < len(data) else data
            elif self.must_wait():
                break
            else:
                end = self._end_of_piece(data, at)
                piece = data[at:end]
                self._weigh_piece(len(piece))
            at += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as offer:
                data, at = self._without_upgrade() + piece[offer.args[0] :] + data[at:], 0
                continue
            except httptools.HttpParserError as error:
                self._refuse_bytes(error)
            if at == len(data) or self.is_deaf or self.transport.is_closing():
                self._keep(b"", 0)
                return
            if not self.reading_since:
                break
        self._keep(data, at)
        self.read_on()

    def wait(self, data: bytes) -> None:
        """`data` was read while other data waits."""
        self._keep(self.rest[self.at :] + data, 0)

    def must_wait(self) -> bool:
        """Whether the next request has to wait: for an answer to the one before, or until answers are read."""
        if self.reading_since:
            return False
        return self.flow.write_paused or (self.cycle is not None and not self.cycle.response_complete)

    def _keep(self, data: bytes, at: int) -> None:
        """`data` from `at` on waits to be parsed; a connection is ended where all of them have too much waiting."""
        size = len(data) - at
        if not size and not self.rest:
            return
        state = self.server_state
        state.unparsed += size - (len(self.rest) - self.at)
        self.rest, self.at = data, at
        self.flow.fill(size > MAX_READ)
        if size and state.unparsed > MAX_WAITING:
            self.is_deaf = True
            self._keep(b"", 0)
            self.transport.abort()

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """Where to stop, so that nothing behind the end of a head, or of a chunked body, is parsed with it."""
        if self.reading_since and (line := data.find(b"\n", at, 3)) >= 0:
            return line + 1  # END may have begun in the read before
        end = data.find(END, at - 3 if at > 3 else 0, at + PIECE)  # or in the piece before
        return end + 4 if end >= 0 else at + PIECE

    def _weigh_piece(self, size: int) -> None:
        """Bound a head and what is around it, and what follows a chunked body: the parser may keep an unfinished line of it."""
        if self.is_in_head or not self.reading_since:
            self.received += size
            if self.received > MAX_HEAD:
                self.refuse_message(errors.HeadersTooLarge(f"The head of the request is larger than {MAX_HEAD} bytes"))
        elif self.received != self.content_before:
            self.content_before, self.overhead = self.received, 0
        else:
            self.overhead += size
            if self.overhead > MAX_HEAD:
                self.refuse_message(errors.HeadersTooLarge(f"More than {MAX_HEAD} bytes without body follow the head"))

    def _refuse_bytes(self, error: httptools.HttpParserError) -> None:
        if isinstance(error, httptools.HttpParserCallbackError):
            log.error("a request could not be taken", exc_info=error)
            self.refuse_message(errors.InternalError())
        elif not self.is_deaf:
            self.refuse_message(errors.InvalidRequest(f"This is not valid HTTP: {error}"))

    def _without_upgrade(self) -> bytes:
        """A head without its offer of another protocol, for a new parser: the old one reads no body behind such an offer."""
        method, sent = self.parser.get_method(), self.headers
        if method == b"CONNECT":
            self.refuse_message(errors.MethodNotAllowed("CONNECT is not supported"))
            return b""
        head = [b"%b %b HTTP/1.1\r\n" % (method, self.url)]
        head += [b"%b: %b\r\n" % header for header in sent if header[0] not in (b"connection", b"upgrade", b"http2-settings")]
        if any(name == b"connection" and b"close" in value.lower() for name, value in sent):
            head.append(b"connection: close\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"".join((*head, b"\r\n"))

    def refuse_message(self, error: AppError) -> None:
        """The message that is being received cannot be."""
        raise NotImplementedError
