"""One structured line per request. No payloads, no secrets, no raw paths: a key could have been put into one by mistake."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import orjson

FLUSH = 0.25  # seconds that a line may wait
MAX_WAITING = 8 << 20  # bytes; what comes beyond is dropped and counted, so that a stuck reader of the log stops no answers


def write_stdout(data: bytes) -> None:
    """All of `data` to the standard output, past Python's buffers. May block: call it in a thread."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


class RequestLog:
    """Lines are collected on the loop and written by a thread, one write at a time. `form`: json or text."""

    def __init__(self, form: str = "json", write: Callable[[bytes], None] = write_stdout) -> None:
        self._is_json, self._write = form == "json", write
        self._waiting: list[bytes] = []
        self._size = self._dropped = 0
        self._second, self._stamp = 0, ""
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None

    def add(self, fields: dict[str, Any]) -> None:  # Any: text and numbers
        """Write `fields` after the time and the kind of line."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._stamp}.{int((now - second) * 1000):03d}Z"
        if self._is_json:
            line = orjson.dumps({"time": stamp, "level": "info", "logger": "request", **fields})
        else:
            line = f"{stamp} info request {' '.join([f'{k}={v}' for k, v in fields.items() if v not in ('', None)])}".encode()
        if self._size > MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._writing is not None and not self._writing.done():
            self._timer = asyncio.get_running_loop().call_later(FLUSH, self._flush)
            return
        if self._waiting:
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, self._taken())

    def _taken(self) -> bytes:
        lines, self._waiting, self._size = self._waiting, [], 0
        if self._dropped:
            lines.append(b'{"level":"warning","logger":"request","message":"%d lines were dropped"}' % self._dropped)
            self._dropped = 0
        lines.append(b"")
        return b"\n".join(lines)

    async def close(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        if self._waiting:
            await asyncio.get_running_loop().run_in_executor(None, self._write, self._taken())
