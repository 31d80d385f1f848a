"""The gateway's processes: gunicorn's worker is uvicorn's, its connections are saas.protocol's, its stop loses no call.

gunicorn's master imports this module, so it stays light: whatever a restart shall renew is imported in the worker.
"""

import asyncio
import mmap
import socket
import time
from struct import Struct
from typing import Any

from uvicorn.server import Server, ServerState
from uvicorn_worker import UvicornWorker

from saas import room, rounds, unread
from saas.doors import Doors

STOP_SECONDS = 4.0  # that running calls get at a stop; what is left then is answered 503 and costs nothing
ROLL_SECONDS = 65.0  # the same at a rolling restart: longer than the longest deadline
SUCCESSOR_SECONDS = 20.0  # that a process waits for its successor before it stops accepting
IDLE_GRACE = 1.0  # seconds that an idle connection stays open at a stop: its next answer says `Connection: close`
SWEEP_SECONDS = 1.0
TICK = 0.1


class Rolling:
    """What processes of one gunicorn know of a rolling restart, in memory that they share; ages are gunicorn's worker ages."""

    def __init__(self) -> None:
        self._memory, self._form = mmap.mmap(-1, 16), Struct("=QQ")  # replaced up to this age; the newest ready one's age

    def begin(self, age: int) -> None:
        """Processes up to `age` are about to be replaced."""
        self._write(age, self._read()[1])

    def is_replaced(self, age: int) -> bool:
        return age <= self._read()[0]

    def has_successor(self) -> bool:
        replaced, ready = self._read()
        return ready > replaced

    def ready(self, age: int) -> None:
        """The process of this age serves."""
        self._write(self._read()[0], max(age, self._read()[1]))

    def _read(self) -> tuple[int, int]:
        replaced, ready = self._form.unpack_from(self._memory)
        return replaced, ready

    def _write(self, replaced: int, ready: int) -> None:
        self._form.pack_into(self._memory, 0, replaced, ready)


ROLLING = Rolling()


class State(ServerState):
    """What all connections of a process share. `date_line` is the Date header as a line."""

    def __init__(self) -> None:
        super().__init__()
        self.date_line = b""
        self.is_draining = False
        self.body_bytes = 0  # of large bodies that are being received
        self.turns = rounds.Rounds()  # of connections with more than one request to parse
        self.unparsed = 0  # bytes that wait for that
        self.most_connections = room.most_connections()

    def make_room(self) -> None:
        """Close connections that nobody is answered on, if there are too many."""
        if len(self.connections) > self.most_connections:
            for connection in room.spare(self.connections):  # type: ignore[arg-type]  # they are FrontProtocols
                self.connections.discard(connection)  # here already: it is told of its end later
                connection.drop()


class FrontServer(Server):
    """uvicorn's server, with a sweep over the connections and a stop in order."""

    age = 0  # gunicorn's; 0 without gunicorn

    def __init__(self, config: Any) -> None:  # uvicorn.Config
        super().__init__(config)
        self.server_state: State = State()
        self._swept = 0.0
        self.doors = Doors([], self._protocol, config.backlog)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.doors = Doors(list(sockets or []), self._protocol, self.config.backlog)
        if self.age:
            ROLLING.ready(self.age)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as in uvicorn
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def on_tick(self, counter: int) -> bool:
        should_exit = await super().on_tick(counter)
        self._tick()
        await self.doors.look()
        return should_exit

    def _tick(self) -> None:
        state = self.server_state
        state.date_line = b"".join([b"%b: %b\r\n" % header for header in state.default_headers])
        now = asyncio.get_running_loop().time()
        if now - self._swept >= SWEEP_SECONDS or state.is_draining:
            idle = IDLE_GRACE if state.is_draining else self.config.timeout_keep_alive
            for connection in list(state.connections):
                connection.sweep(now, now - self._swept, idle)  # type: ignore[union-attr]  # they are FrontProtocols
            unread.drop_slowest(state.connections, now)  # type: ignore[arg-type]  # the same
            self._swept = now

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in order: serve until a successor does, accept no more, let calls end, stop the application, close the rest."""
        is_rolling = bool(self.age) and ROLLING.is_replaced(self.age)
        if is_rolling:
            await self._until(ROLLING.has_successor, SUCCESSOR_SECONDS)
        self.doors.close()
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        state = self.server_state
        state.is_draining = True
        for connection in list(state.connections):
            connection.shutdown()
        await self._until(lambda: not state.connections and not state.tasks, ROLL_SECONDS if is_rolling else STOP_SECONDS)
        await self.lifespan.shutdown()
        for connection in list(state.connections):
            connection.transport.close()
        for task in list(state.tasks):
            task.cancel()

    async def _until(self, is_so: Any, seconds: float) -> None:  # Any: a function without arguments
        """Go on ticking until `is_so()`, at most `seconds`, and not at all once a second SIGINT came."""
        deadline = time.monotonic() + seconds
        counter = 0
        while not is_so() and not self.force_exit and time.monotonic() < deadline:
            counter += 1
            await self.on_tick(counter)
            await asyncio.sleep(TICK / 2)


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker is not typed
    """gunicorn's worker class. The protocol is named by a string, so that it is imported in the worker."""

    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": "saas.protocol:FrontProtocol",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = FrontServer(self.config)
        server.age = self.age
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            raise SystemExit(3)  # gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR
