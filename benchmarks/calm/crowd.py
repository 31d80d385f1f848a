"""Clients that keep connections and give nothing: idle, half a head, answers that nobody reads, bodies that trickle."""

import contextlib
import random
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.failures import Failed

TICK = 0.1
BODY_BYTES = 16 << 20
TRICKLED = b" " * (8 << 10)  # of each body, each TICK: above the rate below which the service gives up
HALF_A_HEAD = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
PIPELINED = 20  # requests whose answers a slow reader leaves lying
AT_ONCE, PACE = 20, 0.01  # so many connect each so many seconds: a crowd, and no storm of new connections
GATHER_SECONDS = 120.0


@dataclass(frozen=True)
class Kind:
    """`first` is all that a connection sends, but for a body that trickles behind it."""

    name: str
    count: int
    first: bytes = b""
    is_reading: bool = True
    trickles: bool = False


class Crowd:
    """Keeps so many of each kind connected: one that the service closes comes back."""

    def __init__(self, port: int, kinds: list[Kind]) -> None:
        self.port, self.kinds = port, kinds
        self.closed: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._trickling: set[socket.socket] = set()
        self._deaf: list[socket.socket] = []
        self._gathered, self._ended = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    @property
    def size(self) -> int:
        return len(self._selector.get_map() or ()) + len(self._deaf)

    def gather(self) -> None:
        """Raises Failed if not all of them could connect."""
        self._thread.start()
        if not self._gathered.wait(GATHER_SECONDS) or self._error is not None:
            raise Failed(f"only {self.size} could connect: {self._error or 'it took too long'}")

    def leave(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for number, kind in enumerate(self._mixed()):
                self._join(kind)
                if number % AT_ONCE == 0 and self._ended.wait(PACE):
                    return
            self._gathered.set()
            while not self._ended.wait(TICK):
                self._step()
        except OSError as error:
            self._error = error
            self._gathered.set()
        finally:
            for connection in [key.fileobj for key in list(self._selector.get_map().values())] + self._deaf:
                connection.close()  # type: ignore[union-attr]  # they are sockets
            self._selector.close()

    def _mixed(self) -> list[Kind]:
        kinds = [kind for kind in self.kinds for _ in range(kind.count)]
        random.Random(1).shuffle(kinds)  # noqa: S311 - no secret
        return kinds

    def _join(self, kind: Kind) -> None:
        connection = socket.socket()
        if not kind.is_reading:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        try:
            connection.connect(("127.0.0.1", self.port))
        except OSError:
            connection.close()
            raise
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.send(kind.first)
        if kind.trickles:
            self._trickling.add(connection)
        if kind.is_reading:
            self._selector.register(connection, selectors.EVENT_READ, kind)
        else:
            self._deaf.append(connection)

    def _step(self) -> None:
        for connection in self._trickling:
            with contextlib.suppress(OSError):
                connection.send(TRICKLED)
        for key, _ in self._selector.select(0):
            connection = key.fileobj  # type: ignore[assignment]  # they are sockets
            with contextlib.suppress(BlockingIOError, ConnectionError):
                if connection.recv(1 << 16):
                    continue  # an answer; the end may follow
            self.closed[key.data.name] += 1
            self._selector.unregister(connection)
            self._trickling.discard(connection)
            connection.close()
            self._join(key.data)


@contextmanager
def gathered(port: int, kinds: list[Kind]) -> Iterator[Crowd]:
    """Raises Failed."""
    crowd = Crowd(port, kinds)
    try:
        crowd.gather()
        yield crowd
    finally:
        crowd.leave()
