"""One part of the service: a process in a session of its own, its output in the log, started again when it crashes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saas.local.log import Log
from saas.local.processes import end_groups

FIRST_PAUSE = 0.2  # seconds before a crashed part is started again; doubled each time
LONGEST_PAUSE = 8.0
STEADY_SECONDS = 30.0  # a part that lived this long has earned a short pause again


@dataclass
class Recipe:
    """How a part is started and stopped. `grace` is the time in seconds it may take to end when all is stopped.

    What does not end in time gets `last_signal`, and SIGKILL a second later.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    grace: float
    stop_signal: signal.Signals = signal.SIGTERM
    last_signal: signal.Signals = signal.SIGKILL
    prepare: Callable[[], None] | None = None  # run in a thread before each start
    process_options: dict[str, Any] = field(default_factory=dict)  # cwd, user, … of subprocess.Popen


class Process:
    """A started recipe. asyncio's own waits until all copies of the output pipe are closed; this one only for its end."""

    def __init__(self, recipe: Recipe, output: int) -> None:
        self._popen = subprocess.Popen(
            recipe.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(recipe.environment),
            start_new_session=True,
            **recipe.process_options,
        )
        self.pid = self._popen.pid
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        threading.Thread(target=self._watch, name=f"wait for {recipe.name}", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> int:
        """Its status, as of subprocess: negative for a signal."""
        return await asyncio.shield(self._ended)

    def _watch(self) -> None:
        status = self._popen.wait()
        self._loop.call_soon_threadsafe(self._ended.set_result, status)


class Part:
    """A recipe with its living process. `keep()` runs until `stop()`."""

    def __init__(self, recipe: Recipe, log: Log) -> None:
        self.recipe, self.log = recipe, log
        self.process: Process | None = None
        self.started_at = 0.0  # monotonic
        self.crashes = 0
        self._is_stopping = False
        self._stopped = asyncio.Event()
        self._lock = asyncio.Lock()  # a stop never overlooks a process that is just being started
        self._reader: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def pid(self) -> int | None:
        """The living process, None between a crash and the next start."""
        process = self.process
        return process.pid if process is not None and process.is_alive else None

    async def start(self) -> None:
        """Start the process once. Raises OSError, ServerError."""
        async with self._lock:
            if not self._is_stopping:
                await self._start()

    async def _start(self) -> None:
        recipe = self.recipe
        if recipe.prepare is not None:
            await asyncio.to_thread(recipe.prepare)
        reader, writer = os.pipe()
        try:
            self.process = Process(recipe, writer)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self.started_at = time.monotonic()
        self._reader = asyncio.create_task(self._copy_output(reader))

    def keep(self) -> None:
        """From now on start the process again whenever it ends by itself."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, *, grace: float | None = None) -> None:
        """End the process and its children, within `grace` seconds (default: the recipe's) and one more."""
        self._is_stopping = True
        self._stopped.set()
        async with self._lock:
            process = self.process
        if process is not None:
            await self._end(process, self.recipe.grace if grace is None else grace)
            end_groups([process.pid])
        if self._keeper is not None:
            await self._keeper
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=0.5)  # somebody who left the session may still hold the pipe
            self._reader.cancel()

    async def _end(self, process: Process, grace: float) -> None:
        for number, seconds in ((self.recipe.stop_signal, grace), (self.recipe.last_signal, 1.0)):
            self.signal(number)
            try:
                await asyncio.wait_for(process.wait(), seconds)
            except TimeoutError:
                self.log.say(f"{self.name} did not end within {seconds:g} s")
            else:
                return
        self.signal(signal.SIGKILL)
        await process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    async def wait_until(
        self, is_ready: Callable[[], Awaitable[bool]], *, seconds: float, needs: "Sequence[Part]" = ()
    ) -> None:
        """Wait until `is_ready`. Raises PartFailed if it or one that it `needs` keeps ending, or the time is over."""
        deadline = time.monotonic() + seconds
        crashes = {part: part.crashes for part in (self, *needs)}
        while not await is_ready():
            for part, before in crashes.items():
                if part.crashes >= before + 3 or (part._keeper is None and part.pid is None):
                    raise PartFailed(f"{part.name} ends as soon as it is started: see the lines above")
            if time.monotonic() > deadline:
                raise PartFailed(f"{self.name} was not ready within {seconds:g} s")
            await asyncio.sleep(0.05)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._is_stopping:
            if self.process is not None:
                status = await self.process.wait()
                end_groups([self.process.pid])  # a worker process of its own must not outlive it
                if self._is_stopping:
                    return
                pause = FIRST_PAUSE if time.monotonic() - self.started_at > STEADY_SECONDS else min(pause * 2, LONGEST_PAUSE)
                self.crashes += 1
                self.log.say(f"{self.name} {_ending(status)}: it is started again in {pause / 2:g} s")
            try:
                await asyncio.wait_for(self._stopped.wait(), pause / 2)
            except TimeoutError:
                pause = await self._start_again(pause)

    async def _start_again(self, pause: float) -> float:
        """The pause from now on. Whatever hinders this start may be over at the next one; it is said, and tried again."""
        try:
            await self.start()
        except Exception as error:
            self.process = None
            pause = min(pause * 2, LONGEST_PAUSE)
            self.log.say(f"{self.name} cannot be started: {error}: it is tried again in {pause / 2:g} s")
        return pause

    async def _copy_output(self, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        with contextlib.closing(transport):
            while chunk := await reader.read(1 << 16):
                self.log.write(self.name, chunk)


class PartFailed(Exception):
    """A part could not be brought up; the message says which and what was seen."""


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
