"""The connection that the books need, and how it is made."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from saas.lib.valkey import Connection, Sender

log = logging.getLogger(__name__)


class Wire(Sender, Protocol):
    """What Books needs of a connection: saas.lib.valkey.Connection, or a simulated one."""

    def close(self) -> None: ...


class Dialer(Protocol):
    """Connects in the background; calls `on_connected(wire)` or `on_failed()` once, and `on_lost()` when a wire is lost."""

    def __call__(
        self, on_connected: Callable[[Wire], None], on_failed: Callable[[], None], on_lost: Callable[[], None]
    ) -> None: ...


def boot_seconds() -> float:
    """Seconds since boot, time asleep included: a machine that slept must not believe its heartbeat."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ValkeyDialer:
    """Dials a Valkey by its URL, one attempt at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._dialing: asyncio.Task[None] | None = None

    def __call__(
        self, on_connected: Callable[[Wire], None], on_failed: Callable[[], None], on_lost: Callable[[], None]
    ) -> None:
        async def dial() -> None:
            try:
                wire = await Connection.connect(self._url, on_lost)
            except ConnectionError as error:
                log.warning("the books are not reachable: %s", error)
                on_failed()
            else:
                on_connected(wire)

        self._dialing = asyncio.get_running_loop().create_task(dial())

    def cancel(self) -> None:
        if self._dialing is not None:
            self._dialing.cancel()
