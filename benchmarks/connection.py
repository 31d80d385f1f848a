"""One keep-alive HTTP/1.1 connection of the load generator, without blocking: a question goes out, its answer comes back."""

import re
import select
import socket
import time
from dataclasses import dataclass

CHUNK = 1 << 18
_length = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_retry = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
_close = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_chunked = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class Broken(Exception):
    """The connection ended, or what came is no HTTP answer; the message says which."""


@dataclass(slots=True)
class Answer:
    status: bytes  # three digits
    head: bytes
    body: bytes

    @property
    def is_refusal(self) -> bool:
        """Whether it says when to come again."""
        return self.status in (b"429", b"503") and _retry.search(self.head) is not None

    @property
    def is_last(self) -> bool:
        """Whether the server closes the connection behind it."""
        return _close.search(self.head) is not None


class Connection:
    """`ask` sends a whole request; `receive`, called when the socket is readable, returns its answer once it is complete.

    `asked` and `due` are for the caller: when the question under way was sent, and when it should have been (monotonic).
    `is_idle`: none is.
    """

    __slots__ = ("_address", "_left", "_poller", "_received", "asked", "due", "is_idle", "sample", "socket")

    def __init__(self, address: tuple[str, int], poller: select.epoll) -> None:
        self._address, self._poller = address, poller
        self.asked = self.due = 0.0
        self.sample = 0
        self.connect()

    def connect(self) -> None:
        """Raises OSError."""
        self.socket = socket.create_connection(self._address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._received = b""
        self._left = memoryview(b"")
        self.is_idle = True
        self._poller.register(self.socket, select.EPOLLIN)

    def reconnect(self) -> None:
        """Raises OSError."""
        self.close()
        self.connect()

    def close(self) -> None:
        self._poller.unregister(self.socket)
        self.socket.close()

    @property
    def number(self) -> int:
        """Of its socket, as the poller names it."""
        return self.socket.fileno()

    def ask(self, request: bytes) -> None:
        """Raises OSError."""
        self.asked = time.monotonic()
        self.is_idle = False
        try:
            sent = self.socket.send(request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            self._left = memoryview(request)[sent:]
            self._poller.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def send_more(self) -> None:
        """What `ask` could not send yet. Raises OSError."""
        if self._left:
            try:
                self._left = self._left[self.socket.send(self._left) :]
            except BlockingIOError:
                return
        if not self._left:
            self._poller.modify(self.socket, select.EPOLLIN)

    def receive(self) -> Answer | None:
        """The answer, or None if more of it has to come. Raises OSError, Broken."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return None
        if not data:
            raise Broken("the server closed the connection")
        self._received = received = self._received + data if self._received else data
        answer = parsed(received)
        if answer is not None:
            self._received, self.is_idle = b"", True
        return answer


def parsed(received: bytes) -> Answer | None:
    """The answer that `received` is, None if it is not complete. Raises Broken."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = _length.search(received, 0, end)
    if found is not None:
        whole = end + 4 + int(found[1])
        if len(received) < whole:
            return None
        if len(received) > whole:
            raise Broken("more came than one answer")
        return Answer(received[9:12], received[:end], received[end + 4 :])
    if _chunked.search(received, 0, end) is None:
        raise Broken(f"an answer without a length: {received[:end].decode('latin-1')}")
    if not received.endswith(b"0\r\n\r\n"):
        return None
    return Answer(received[9:12], received[:end], unchunked(received[end + 4 :]))


def unchunked(data: bytes) -> bytes:
    """The body that complete chunks (RFC 9112, 7.1) carry. Raises Broken."""
    parts, at = [], 0
    try:
        while size := int(data[at : (start := data.index(b"\r\n", at) + 2)].partition(b";")[0], 16):
            parts.append(data[start : start + size])
            at = start + size + 2
    except ValueError:
        raise Broken("chunks that are none") from None
    return b"".join(parts)
