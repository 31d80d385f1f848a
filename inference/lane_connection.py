"""A worker's blocking connection to the lanes server."""

import socket
import ssl
from typing import Any

import hiredis
from redis.connection import SSLConnection, parse_url

REPLY_SECONDS = 5.0  # a server that is silent for so long, beyond what a command may wait, is given up


def pack_command(command: tuple[str | bytes, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub takes tuples of one element only
    return packed


class LaneConnection:
    """One blocking connection to the lanes server; redis-py would cost 100 µs a command."""

    def __init__(self, url: str) -> None:
        """Raises OSError or ConnectionError if there is none."""
        options = parse_url(url)  # type: ignore[no-untyped-call]
        self._reader = hiredis.Reader()
        self._socket = _connect(options)
        if password := options.get("password"):
            self.ask([pack_command(("AUTH", options.get("username") or "default", password))])
        if database := options.get("db"):
            self.ask([pack_command(("SELECT", str(database)))])

    def ask(self, commands: list[bytes], timeout: float = REPLY_SECONDS) -> Any:
        """Send packed commands in one write; the last one's reply. `timeout` seconds for each read. Raises OSError."""
        self._socket.settimeout(timeout)
        self._socket.sendall(b"".join(commands))
        reply: Any = None
        for _ in commands:
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise ConnectionError("the lanes server closed the connection")
                self._reader.feed(data)
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionError(f"the lanes server refused: {reply}")
        return reply

    def close(self) -> None:
        self._socket.close()


def _connect(options: Any) -> socket.socket:
    if path := options.get("path"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(REPLY_SECONDS)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    connection = socket.create_connection((host, port), REPLY_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if options.get("connection_class") is SSLConnection:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        return context.wrap_socket(connection, server_hostname=host)
    return connection
