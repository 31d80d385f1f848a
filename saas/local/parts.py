"""One part of the service: a process in a session of its own, its output in the log, started again when it crashes."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saas.local.log import Log
from saas.local.processes import end_groups

FIRST_PAUSE = 0.2  # seconds before a crashed part is started again; doubled each time
LONGEST_PAUSE = 8.0
STEADY_SECONDS = 30.0  # a part that lived this long has earned a short pause again


@dataclass
class Recipe:
    """How a part is started and stopped. `grace` is the time in seconds it may take to end when all is stopped."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    grace: float
    stop_signal: signal.Signals = signal.SIGTERM
    prepare: Callable[[], None] | None = None  # run in a thread before each start
    process_options: dict[str, Any] = field(default_factory=dict)  # cwd, user, … of subprocess.Popen


class Part:
    """A recipe with its living process. `keep()` runs until `stop()`."""

    def __init__(self, recipe: Recipe, log: Log) -> None:
        self.recipe, self.log = recipe, log
        self.process: asyncio.subprocess.Process | None = None
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
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the process once. Raises OSError, ServerError."""
        async with self._lock:
            if not self._is_stopping:
                await self._start()

    async def _start(self) -> None:
        recipe = self.recipe
        if recipe.prepare is not None:
            await asyncio.to_thread(recipe.prepare)
        self.process = await asyncio.create_subprocess_exec(
            *recipe.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(recipe.environment),
            start_new_session=True,
            **recipe.process_options,
        )
        self.started_at = time.monotonic()
        self._reader = asyncio.create_task(self._copy_output(self.process))

    def keep(self) -> None:
        """From now on start the process again whenever it ends by itself."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, *, grace: float | None = None) -> None:
        """End the process and its children: `stop_signal`, and SIGKILL after `grace` seconds (default: the recipe's)."""
        self._is_stopping = True
        self._stopped.set()
        async with self._lock:
            process = self.process
        if process is not None:
            self.signal(self.recipe.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.recipe.grace if grace is None else grace)
            except TimeoutError:
                self.log.say(f"{self.name} did not end in time: killed")
                self.signal(signal.SIGKILL)
                await process.wait()
            end_groups([process.pid])
        for task in (self._keeper, self._reader):
            if task is not None:
                await task

    def signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    async def wait_until(self, is_ready: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
        """Wait until `is_ready`. Raises PartFailed if the process keeps ending or the time is over."""
        deadline = time.monotonic() + seconds
        crashes = self.crashes
        while not await is_ready():
            if self.crashes >= crashes + 3 or (self._keeper is None and self.pid is None):
                raise PartFailed(f"{self.name} ends as soon as it is started: see the lines above")
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
                await self._start_again()

    async def _start_again(self) -> None:
        try:
            await self.start()
        except Exception as error:  # whatever hinders this start may be over at the next one; it is said, and tried again
            self.process = None
            self.log.say(f"{self.name} cannot be started: {error}")

    async def _copy_output(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while chunk := await process.stdout.read(1 << 16):
            self.log.write(self.name, chunk)


class PartFailed(Exception):
    """A part could not be brought up; the message says which and what was seen."""


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
