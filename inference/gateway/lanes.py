"""The gateway's end of the lanes: admit and push once per tick, take the replies, free the places of ended calls."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from inference.gateway import frames
from inference.gateway.call import Call
from inference.gateway.kept import Kept
from inference.gateway.slow_turns import SlowTurns
from inference.gateway.weight import LIGHT
from inference.holders import HOLDER, holder_key, turns_key
from inference.lanes import (
    WORKERS,
    Reply,
    kept_key,
    lane_key,
    pool_key,
    replies_channel,
    resident_key,
    unpack_replies,
    worker_key,
)
from saas.lib.errors import Unavailable
from saas.lib.gathering import Gathering
from saas.lib.valkey import Connection, Script
from tenants import records

log = logging.getLogger(__name__)

ADMIT = Script(HOLDER, Path(__file__).with_name("admit.lua"))
RELEASE_WITHIN = 0.02  # seconds that a freed place may wait for a tick to travel with
RECONNECT_EVERY = 0.2
CALLS_PER_SCRIPT = 256
LEAST_ROOM = 4  # calls that may wait, however long each takes
LONG_MS = 1.0  # a call of less takes no turns: whoever waits for it waits little
TURN_MS = 50.0  # work of organizations that call the same version at the same time, which they share
WATCH_EVERY = 1.0
ASK_SECONDS = 2.0  # for a reply that somebody waits for
HEAR_SECONDS = 0.5
HUNG_SECONDS = 2.0  # without a reply, after which the server is given nothing more
MAX_BUFFERED = 64 << 20  # bytes of one connection that it has not taken, beyond which it is given nothing more
Places = tuple[str, str, str, str]
"""What a call holds while it runs: (who holds it, then the names of the key's, the organization's and the turns' places)."""
Admitted = tuple[int, str, int, int, int]
"""What admit.lua says of one group: (admitted, reason, key tokens, organization tokens, wait in ms)."""


class Lanes:
    """Three connections to the lanes server: one asks, one carries large frames, so that nobody else waits behind them, and
    one is subscribed to this gateway's replies and to changed records. When one is lost all are made anew.
    """

    def __init__(
        self,
        url: str,
        session: str,
        *,
        lane_max_ms: float,
        on_admitted: Callable[[list[Call], Admitted], None],
        on_reply: Callable[[Reply], None],
        on_changed: Callable[[str], None],
        on_lost: Callable[[], None],
        on_worker_lost: Callable[[], None],
    ) -> None:
        self._url, self._session, self._lane_max_ms = url, session, lane_max_ms
        self._on_admitted, self._on_reply, self._on_changed = on_admitted, on_reply, on_changed
        self._on_lost, self._on_worker_lost = on_lost, on_worker_lost
        self._commands: Connection | None = None
        self._large: Connection | None = None
        self._replies: Connection | None = None
        self._kept = Kept(self, kept_key(session), self._on_replies)
        self._to_push: list[Call] = []
        self._to_release: dict[Places, int] = {}
        self._connections = 0
        self._holder = ""  # who holds the places that calls take over this connection
        self._gathering = Gathering(lambda: len(self._to_push), self._gathered)
        self._is_stopping = False
        self._release_timer: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.workers: dict[str, float] = {}
        self._slow_turns = SlowTurns()
        self.is_connected = False
        self.is_hung = False
        self._asked_at = 0.0  # loop time of a question of `_watch` that has no answer yet; 0: none

    @property
    def takes_calls(self) -> bool:
        """Whether the server is there, answers, and takes what is written to it."""
        return self.is_connected and not self.is_hung and _has_room(self._commands)

    @property
    def takes_large_calls(self) -> bool:
        """The same for large calls, whose bytes must not refuse small ones."""
        return _has_room(self._large)

    async def start(self) -> None:
        """Connect; if the server is not there yet, keep trying in the background."""
        self._loop = asyncio.get_running_loop()
        await self._try()
        if not self.is_connected:
            self._reconnecting = self._loop.create_task(self._reconnect())
        self._watching = self._loop.create_task(self._watch())

    async def stop(self) -> None:
        self._is_stopping = True
        for task in (self._reconnecting, self._watching):
            if task:
                task.cancel()
        if self._to_release and self.is_connected:
            self._tick()
            with suppress(Unavailable):
                await self.ask("PING")  # what was written before it has arrived
        self._drop()

    def send(self, done: Callable[[Any], None] | None, *command: Any) -> None:
        """A command on the asking connection; `done` gets a ConnectionError if there is none."""
        if self._commands is not None:
            self._commands.send(done, *command)
        elif done is not None:
            self._loop.call_soon(done, ConnectionError("the lanes server is not connected"))

    def _way_of(self, call: Call) -> Connection | None:
        return self._large if call.bytes_in > LIGHT else self._commands

    async def ask(self, *command: Any) -> Any:
        """Send and wait. Raises Unavailable: the lanes server does not answer, or not as it should."""
        if self.is_hung:
            raise Unavailable("The lanes server does not answer; try again soon", retry_after=1)
        answer: asyncio.Future[Any] = self._loop.create_future()

        def answered(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.send(answered, *command)
        try:
            reply = await asyncio.wait_for(answer, ASK_SECONDS)
        except TimeoutError as error:
            raise Unavailable("The lanes server does not answer; try again soon", retry_after=1) from error
        if isinstance(reply, Exception):
            raise Unavailable("The lanes server does not answer; try again soon", retry_after=1) from reply
        return reply

    async def hear_all(self) -> None:
        """Back when every change that was published before now is known here, or after HEAR_SECONDS."""
        if self._replies is not None and not self.is_hung:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._replies.hear_all(), HEAR_SECONDS)

    # --- connection

    async def _try(self) -> None:
        try:
            self._commands = await Connection.connect(self._url, self._lost)
            self._large = await Connection.connect(self._url, self._lost)
            self._large.send(None, "SCRIPT", "LOAD", frames.PUSH.source)  # else it would be told the first frame twice
            self._replies = await Connection.connect(self._url, self._lost)
            await self._subscribe(self._replies)
            if self._commands is None or self._large is None or self._replies is None:
                raise ConnectionError("a connection was lost while the others were made")
        except (ConnectionError, TimeoutError) as error:
            log.warning("the lanes server is not reachable: %s", error)
            self._drop()
            return
        self._kept.forget_all()
        self._connections += 1
        self._holder = f"{self._session}:{self._connections}"
        self.is_connected = True

    async def _subscribe(self, connection: Connection) -> None:
        """Listen to replies and changed records; back when the server has acknowledged both."""
        awaited = {replies_channel(self._session).encode(), records.RECORDS_CHANNEL.encode()}
        heard = self._loop.create_future()

        def on_message(channel: bytes, message: bytes) -> None:
            if channel:
                self._on_message(channel, message)
                return
            awaited.discard(message)
            if not awaited and not heard.done():
                heard.set_result(None)

        connection.subscribe([name.decode() for name in awaited], on_message)
        await asyncio.wait_for(heard, 5)

    def _drop(self) -> None:
        connections = self._commands, self._large, self._replies
        self._commands = self._large = self._replies = None
        for connection in connections:
            if connection is not None:
                connection.abort()

    def _lost(self) -> None:
        was_connected, self.is_connected = self.is_connected, False
        self._drop()
        if self._is_stopping or not was_connected:
            return
        log.warning("the connection to the lanes server is lost")
        self._to_push.clear()
        self._to_release.clear()
        self._on_lost()
        self._reconnecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        while not self.is_connected:
            await asyncio.sleep(RECONNECT_EVERY)
            await self._try()
        log.info("the lanes server is connected")

    def _on_message(self, channel: bytes, message: bytes) -> None:
        if channel == records.RECORDS_CHANNEL.encode():
            self._on_changed(message.decode())
            return
        self._on_replies(message)

    def _on_replies(self, message: bytes) -> None:
        for reply in unpack_replies(message):
            if reply.is_kept:
                self._kept.fetch(reply.number)
                continue
            try:
                self._on_reply(reply)
            except Exception:  # one call's fault must not take the others' replies with it
                log.exception("the reply to call %d was not taken", reply.number)

    # --- admit and push

    def room(self, ms: float) -> int:
        """How many calls of `ms` milliseconds may wait."""
        return max(LEAST_ROOM, int(self._lane_max_ms / max(ms, 0.001)))

    def push(self, call: Call) -> None:
        """Admit `call` with this tick; `on_admitted` is told what came of it."""
        self._to_push.append(call)
        self._gathering.begin(self._loop)

    def _gathered(self) -> None:
        if self._to_push:  # else they have travelled with a release
            self._tick()

    def repush(self, call: Call) -> None:
        """Put a call whose worker died into its lane again. It holds its places still."""
        if (way := self._way_of(call)) is not None:
            way.send(None, "RPUSH", pool_key(call.version.hardware, low=call.is_low), call.frame)

    def withdraw(self, call: Call) -> None:
        """Take a call that nobody waits for out of its lane; if it may run long, tell the workers, too."""
        if call.frame and (way := self._way_of(call)) is not None:  # without a frame it has not been pushed yet
            frames.withdraw(call, way, self._loop.time())

    def release(self, call: Call) -> None:
        """Free the places of an ended call with the next tick, within RELEASE_WITHIN.

        What was taken over a connection that is lost is not freed: perhaps the server has forgotten it. It ends by itself.
        """
        places = call.places
        if places is None or places[0] != self._holder:
            return
        self._to_release[places] = self._to_release.get(places, 0) + 1
        if self._release_timer is None:
            self._release_timer = self._loop.call_later(RELEASE_WITHIN, self._flush)

    def _flush(self) -> None:
        self._release_timer = None
        if (self._to_release or self._to_push) and self.is_connected:
            self._tick()

    def _tick(self) -> None:
        calls, self._to_push = self._to_push, []
        for start in range(0, max(len(calls), 1), CALLS_PER_SCRIPT):
            self._send(calls[start : start + CALLS_PER_SCRIPT])

    def _send(self, calls: list[Call]) -> None:
        groups: dict[tuple[str, str, bool, bool, bool, bool], list[Call]] = {}
        for call in calls:
            follows = call.bytes_in > LIGHT or call.has_waited  # its frame, once it is admitted
            group = (call.key.id, call.version.id, call.is_low, call.is_slow, call.takes_slow_place, follows)
            groups.setdefault(group, []).append(call)
        keys: list[str] = []
        arguments: list[Any] = [self._holder, len(groups)]
        now = self._loop.time()
        for mine in groups.values():
            self._describe(mine, keys, arguments, now)
        self._describe_releases(keys, arguments)
        told = list(groups.values())
        if self._commands is not None:
            ADMIT.run(self._commands, lambda reply: self._admitted(told, reply), keys, arguments)

    def _describe(self, calls: list[Call], keys: list[str], arguments: list[Any], now: float) -> None:
        first = calls[0]
        key, version, low = first.key, first.version, first.is_low
        longest = max([call.expected_ms for call in calls])
        follows = first.bytes_in > LIGHT or first.has_waited
        if first.takes_slow_place:
            shared_place, spare, turn = f"slow-{version.hardware}", 1, self._slow_turns.turn(version.hardware)
        else:
            shared_place, spare, turn = version.id, 0, max(1, int(TURN_MS / longest)) if longest >= LONG_MS else 0
        mine, all_, turns = holder_key(key.id), holder_key(key.shared_holder), turns_key(shared_place, key.organization)
        keys += (
            mine, all_, turns,
            lane_key(version.id, low=low, slow=first.is_slow), resident_key(version.id), pool_key(version.hardware, low=low),
            f"sharing:{shared_place}",
        )  # fmt: skip
        limits, shared = key.limits, key.organization_limits
        arguments += (
            len(calls), 0 if low else 1, limits.rate, limits.burst, limits.concurrency,
            shared.rate, shared.burst, shared.concurrency, self.room(longest), turn, spare, key.organization,
            max([call.deadline for call in calls]),
        )  # fmt: skip
        places = None if low else (self._holder, mine, all_, turns if turn else "")
        for call in calls:
            call.pushed, call.attempts, call.places = now, 1, places
            call.frame = b"" if follows else frames.pack(call, self._session)
            arguments.append(call.frame)

    def _describe_releases(self, keys: list[str], arguments: list[Any]) -> None:
        released = list(self._to_release.items())[:CALLS_PER_SCRIPT]
        for places, _ in released:
            del self._to_release[places]
            keys += places[1:]
        arguments.append(len(released))
        arguments += [count for _, count in released]
        if self._to_release and self._release_timer is None:
            self._release_timer = self._loop.call_later(0, self._flush)

    def _admitted(self, groups: list[list[Call]], reply: Any) -> None:
        if isinstance(reply, Exception):
            if isinstance(reply, ConnectionError):
                return  # _lost tells everybody
            log.error("admission failed: %s", reply)
            reply = [(0, b"error", 0, 0, 1000)] * len(groups)
        for calls, (admitted, reason, key_tokens, organization_tokens, wait) in zip(groups, reply, strict=True):
            self._on_admitted(calls, (admitted, reason.decode(), key_tokens, organization_tokens, wait))
            if admitted and not calls[0].frame:
                self._send_frames(calls[:admitted])

    def _send_frames(self, calls: list[Call]) -> None:
        """Of calls that were admitted without them. What is on its way is not counted in the room of its lane."""
        for call in calls:
            if not call.is_ended and (way := self._way_of(call)) is not None:
                call.pushed = self._loop.time()
                frames.push(call, way, self._session, partial(self._pushed, call))

    def _pushed(self, call: Call, reply: Any) -> None:
        if isinstance(reply, Exception) and not isinstance(reply, ConnectionError):  # of that `_lost` tells everybody
            log.error("a call was not pushed: %s", reply)
            self._on_admitted([call], (0, "error", 0, 0, 1000))

    # --- workers

    async def _watch(self) -> None:
        """Notice a server that hangs, and workers that died: their names outlive them in the set, their scores have passed."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            if not self._asked_at and self.is_connected:
                self._asked_at = self._loop.time()
                self.send(self._saw_workers, "ZRANGE", WORKERS, 0, -1, "WITHSCORES")
            elif self._asked_at and not self.is_hung and self._loop.time() - self._asked_at > HUNG_SECONDS:
                log.warning("the lanes server does not answer; calls are refused until it does")
                self.is_hung = True

    def _saw_workers(self, reply: Any) -> None:
        self._asked_at, self.is_hung = 0.0, False
        if isinstance(reply, Exception):
            return
        seen = {name.decode(): float(until) for name, until in zip(reply[::2], reply[1::2], strict=True)}
        now = time.time()
        alive = {name: until for name, until in seen.items() if until > now}
        died = [name for name in self.workers if name in seen and seen[name] <= now]
        self.workers = alive
        if died:
            log.warning("workers lost: %s", ", ".join(died))
            self._on_worker_lost()
        if alive:
            self.send(self._saw_reports, "MGET", *[worker_key(name) for name in alive])

    def _saw_reports(self, reply: Any) -> None:
        if not isinstance(reply, Exception):
            self._slow_turns.hear(reply)


def _has_room(connection: Connection | None) -> bool:
    return connection is not None and connection.buffered < MAX_BUFFERED
