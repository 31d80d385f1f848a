"""Large replies, which workers leave on the lanes server: fetched one by one, so that only one is on its way."""

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saas.lib.valkey import Script, Sender

log = logging.getLogger(__name__)

FORGET = Script(Path(__file__).with_name("forget.lua"))


class Kept:
    """Lives on one event loop. `on_message` gets each kept reply, packed like a message on the gateway's channel."""

    def __init__(self, lanes: Sender, key: str, on_message: Callable[[bytes], None]) -> None:
        self._lanes, self._key, self._on_message = lanes, key, on_message
        self._numbers: deque[int] = deque()  # of calls; the first one's reply is on its way

    def fetch(self, number: int) -> None:
        """Get the reply to call `number` when those before it are here."""
        self._numbers.append(number)
        if len(self._numbers) == 1:
            self._ask()

    def forget_all(self) -> None:
        """Nobody waits for any of them: the connection was lost, and with it the calls."""
        self._lanes.send(None, "DEL", self._key)

    def _ask(self) -> None:
        self._lanes.send(self._fetched, "HGET", self._key, self._numbers[0])

    def _fetched(self, reply: Any) -> None:  # Any: as a connection gives it
        if isinstance(reply, ConnectionError):
            self._numbers.clear()
            return
        FORGET.run(self._lanes, None, [self._key], [self._numbers.popleft()])
        if self._numbers:
            self._ask()
        if isinstance(reply, bytes):  # None: it came a second time, from a worker that lost its connection in between
            self._on_message(reply)
        elif reply is not None:
            log.error("a reply could not be fetched: %s", reply)
