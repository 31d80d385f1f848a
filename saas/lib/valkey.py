"""Valkey, in two ways: a pipelined asyncio connection for hot paths, redis-py for everything else.

`Connection` writes each command as it comes and hands each reply, in order, to the callback that came with the command: no
task, future or lock per command. It never reconnects and never repeats: whoever holds it knows what may be sent again.
"""

import asyncio
import hashlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry

log = logging.getLogger(__name__)

ReplyError = hiredis.ReplyError
Done: TypeAlias = Callable[[Any], None]
"""Takes a command's reply: bytes, int, list, None; or a ReplyError; or a ConnectionError if none will come."""
Argument: TypeAlias = str | bytes | int | float


class Sender(Protocol):
    """What a Script needs of a connection; simulations have their own."""

    def send(self, done: Done | None, *command: Argument) -> None: ...


class Connection(asyncio.Protocol):
    """One pipelined connection, made by `connect`. All its methods and callbacks run on its loop.

    When the connection ends, by whichever side, every command still waiting gets one ConnectionError and then `on_lost` is
    called, both exactly once; such a command may have run or not. What is sent later gets a ConnectionError in the next round
    of the loop.
    """

    def __init__(self, on_lost: Callable[[], None] | None = None) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[Done | None] = deque()
        self._hearing: deque[asyncio.Future[None]] = deque()
        self._on_lost = on_lost
        self._on_message: Callable[[bytes, bytes], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, url: str, on_lost: Callable[[], None] | None = None, timeout: float = 5.0) -> "Connection":
        """Connect to unix:///path, redis://host:port/db or rediss://…; the URL is read by redis-py, password and db included.

        `on_lost` is called only for a connection that was returned. Raises ConnectionError when there is none within
        `timeout` seconds, or the server refuses the password or database.
        """
        options = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
        connection = cls()
        try:
            async with asyncio.timeout(timeout):
                await connection._open(options)
                if options.get("password"):
                    name = [options["username"]] if options.get("username") else []
                    await connection.call("AUTH", *name, options["password"])
                if options.get("db"):
                    await connection.call("SELECT", options["db"])
        except (OSError, TimeoutError, ReplyError) as error:
            connection.abort()
            raise ConnectionError(f"no connection to Valkey: {str(error) or 'timed out'}") from error
        except BaseException:  # whoever connects has been cancelled
            connection.abort()
            raise
        if not connection.is_open:
            raise ConnectionError("the connection to Valkey was lost while it was set up")
        connection._on_lost = on_lost
        return connection

    async def _open(self, options: Any) -> None:
        if path := options.get("path"):
            await self._loop.create_unix_connection(lambda: self, path)
            return
        tls = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        is_tls = options.get("connection_class") is SSLConnection
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        transport, _ = await self._loop.create_connection(lambda: self, host, port, ssl=tls if is_tls else None)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def buffered(self) -> int:
        """Bytes that were sent and that the server's machine has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, done: Done | None, *command: Argument) -> None:
        """Write a command; `done` gets its reply. Without `done` the reply is dropped, but an error is logged."""
        if self._transport is None or self._transport.is_closing():
            if done is not None:
                self._loop.call_soon(done, ConnectionError("the connection to Valkey is closed"))
            return
        self._waiting.append(done)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub wants a 1-tuple

    async def call(self, *command: Argument) -> Any:
        """Send and wait: for start-up and other cold places. Raises ReplyError or ConnectionError."""
        waiter: asyncio.Future[Any] = self._loop.create_future()

        def done(reply: Any) -> None:
            if not waiter.done():
                waiter.set_result(reply)

        self.send(done, *command)
        reply = await waiter
        if isinstance(reply, Exception):
            raise reply
        return reply

    def subscribe(self, channels: Iterable[str], on_message: Callable[[bytes, bytes], None]) -> None:
        """Call `on_message(channel, data)` for each message on `channels` from when the server has taken the command.

        The connection serves nothing else from then on. Further calls add channels and keep one `on_message`, the last.
        An acknowledgement is a message too: channel b"" with the channel's name as data, so the caller knows when it listens.
        """
        self._on_message = on_message
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(("SUBSCRIBE", *channels)))  # type: ignore[arg-type]  # as in send

    def hear_all(self) -> "asyncio.Future[None]":
        """Done when all that was published before now was given to `on_message`; never, if the connection is lost."""
        heard: asyncio.Future[None] = self._loop.create_future()
        self._hearing.append(heard)
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(("PING",)))
        return heard

    def close(self) -> None:
        """Close after what was written is out. Waiting commands get their ConnectionError soon after."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what is still buffered here is not written."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as these are made for

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                self._deliver(reply)
        except hiredis.ProtocolError:
            log.exception("Valkey sent what is not its protocol; the connection is dropped")
            self.abort()

    def _deliver(self, reply: Any) -> None:
        try:
            if self._on_message is not None:
                self._deliver_message(reply)
            elif done := self._waiting.popleft():
                done(reply)
            elif isinstance(reply, ReplyError):
                log.error("Valkey refused a command nobody waits for: %s", reply)
        except Exception as error:  # one caller's callback must not take the others' replies with it
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a Valkey callback failed", "exception": error, "protocol": self})

    def _deliver_message(self, reply: Any) -> None:
        assert self._on_message is not None
        if isinstance(reply, ReplyError):
            log.error("Valkey refused a subscription: %s", reply)
        elif reply[0] == b"message":
            self._on_message(reply[1], reply[2])
        elif reply[0] == b"subscribe":
            self._on_message(b"", reply[1])
        elif reply[0] == b"pong" and not (heard := self._hearing.popleft()).done():
            heard.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        waiting, self._waiting = self._waiting, deque()
        lost = ConnectionError("the connection to Valkey was lost")
        for done in waiting:
            if done is None:
                continue
            try:
                done(lost)
            except Exception as failure:  # as in _deliver
                self._report(failure)
        if self._on_lost is not None:
            on_lost, self._on_lost = self._on_lost, None
            on_lost()


class Script:
    """A Lua script from files beside its caller, run by its hash and loaded where a server does not know it.

    Several files are one script, in their order: the first holds what scripts share, and the shebang line if there is one.
    """

    def __init__(self, *paths: Path) -> None:
        self.source = b"".join(path.read_bytes() for path in paths)
        self.sha = hashlib.sha1(self.source).hexdigest()  # noqa: S324  # Valkey names scripts so; nothing is secured by it
        self.name = paths[-1].name

    def run(self, connection: Sender, done: Done | None, keys: Sequence[str | bytes], arguments: Sequence[Argument]) -> None:
        """Run it on a pipelined connection; `done` gets the reply.

        On NOSCRIPT it is loaded and sent once more, so it may then run after commands that were sent later.
        """

        def first(reply: Any) -> None:
            if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
                connection.send(None, "SCRIPT", "LOAD", self.source)
                connection.send(done, "EVALSHA", self.sha, len(keys), *keys, *arguments)
            elif done is not None:
                done(reply)
            elif isinstance(reply, ReplyError):
                log.error("%s failed: %s", self.name, reply)

        connection.send(first, "EVALSHA", self.sha, len(keys), *keys, *arguments)

    def run_sync(self, client: "redis.Redis", keys: Sequence[str | bytes], arguments: Sequence[Argument]) -> Any:
        """Run it with redis-py. Raises what redis-py raises."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            client.script_load(self.source)
            return client.evalsha(self.sha, len(keys), *keys, *arguments)


def sync_client(url: str, timeout: float | None = 5.0) -> "redis.Redis":
    """A redis-py client that never repeats a command by itself; replies are bytes, as in RESP2.

    `timeout`, in seconds, is for any one reply: a blocking command that waits longer needs a larger one, or None
    (redis-py's own default ends every blocking pop after 5 s).
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=5.0,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
    )
