"""One structured line per request. No payloads, no secrets, no raw paths: a key could have been put into one by mistake."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import NamedTuple

FLUSH = 0.25  # seconds that a line may wait
MAX_WAITING = 8 << 20  # bytes; what comes beyond is dropped and counted, so that a stuck reader of the log stops no answers


class Line(NamedTuple):
    """What is written of a request, after its time. No text in it may need escaping in JSON: ids, names and codes only."""

    request_id: str
    trace_id: str
    organization: str
    key: str  # its public id
    model: str  # owner/name
    version: str
    method: str
    route: str
    status: int
    code: str
    rows: int
    bytes_in: int
    bytes_out: int
    queue_ms: float
    compute_ms: float
    total_ms: float


def template(form: str) -> str:
    """How a time and a Line become text; `form` is json or text."""
    kinds = {str: "%s", int: "%d", float: "%.3f"}
    if form == "text":
        return "%s info request " + " ".join(f"{name}={kinds[kind]}" for name, kind in Line.__annotations__.items())
    quoted = {str: '"%s"', int: "%d", float: "%.3f"}
    fields = ",".join(f'"{name}":{quoted[kind]}' for name, kind in Line.__annotations__.items())
    return f'{{"time":"%s","level":"info","logger":"request",{fields}}}'


def write_stdout(data: bytes) -> None:
    """All of `data` to the standard output, past Python's buffers. May block: call it in a thread."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


class RequestLog:
    """Lines are collected on the loop and written by a thread, one write at a time. `form`: json or text."""

    def __init__(self, form: str = "json", write: Callable[[bytes], None] = write_stdout) -> None:
        self._template, self._write = template(form), write
        self._waiting: list[str] = []
        self._size = self._dropped = 0
        self._second, self._stamp = 0, ""
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None

    def add(self, line: Line) -> None:
        """Write `line`, soon."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        text = self._template % (f"{self._stamp}.{int((now - second) * 1000):03d}Z", *line)
        if self._size > MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(text)
        self._size += len(text)
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
            lines.append(f'{{"level":"warning","logger":"request","message":"{self._dropped} lines were dropped"}}')
            self._dropped = 0
        lines.append("")
        return "\n".join(lines).encode()

    async def close(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        if self._waiting:
            await asyncio.get_running_loop().run_in_executor(None, self._write, self._taken())
