"""More doors while many wait to come in.

uvloop takes one connection of a listener in one turn of the loop (libuv since 1.45), and a turn is as long as all that is asked
in it: who comes behind two thousand others would wait for two thousand turns. Each copy of the listener's descriptor takes one
more. They are open only while there is a queue, because each of them is asked in vain when a single connection comes.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from struct import Struct

MORE = 31  # connections in one turn, beside the first: about a millisecond
QUEUE = 16  # connections that wait, beyond which the others open
UNACKED = Struct("=24xI")  # of struct tcp_info (linux/tcp.h): of a listener, how many wait to be accepted


class Doors:
    """Of one process; `listeners` are open until `close`. All of it happens on one event loop."""

    def __init__(self, listeners: list[socket.socket], make_protocol: Callable[[], asyncio.Protocol], backlog: int) -> None:
        self._listeners, self._make_protocol, self._backlog = listeners, make_protocol, backlog
        self._more: list[asyncio.Server] = []

    async def look(self) -> None:
        """Open the others if many wait, close them once few do."""
        waiting = max(map(waiting_at, self._listeners), default=0)
        if waiting <= QUEUE:
            self._close_others()
        elif not self._more:
            with contextlib.suppress(OSError):  # no file is left for one
                for listener in self._listeners:
                    for _ in range(MORE):
                        await self._open(listener.dup())

    async def _open(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._more.append(await loop.create_server(self._make_protocol, sock=listener, backlog=self._backlog))

    def close(self) -> None:
        """Let nobody in any more."""
        self._listeners = []
        self._close_others()

    def _close_others(self) -> None:
        for server in self._more:
            server.close()
        self._more = []


def waiting_at(listener: socket.socket) -> int:
    """Connections that wait to be accepted; 0 where the system does not tell."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    waiting: int = UNACKED.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.size))[0]
    return waiting
