"""The owner of all processes of a local service: `make run` starts it, and everything ends with it.

Start: end what an earlier one left, servers, bootstrap (tables, catalogue, demo organization), then the parts. Stop, within
10 s: gateway, beat and ops first (calls under way are answered while workers still run), then workers and bookkeeper, then the
servers. A kill -9 of this process is answered by its guard (saas.local.processes), which ends the rest.
"""

import asyncio
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis.asyncio

from saas.config import ROOT
from saas.local.control import Control, control_path
from saas.local.environment import chosen_servers, forget, save, service_environment
from saas.local.home import claim
from saas.local.log import Log
from saas.local.parts import Part, PartFailed, Recipe
from saas.local.preconditions import (
    CannotStart,
    lock_or_refuse,
    make_empty,
    refuse_missing_gpu,
    refuse_taken_port,
    refuse_unreachable,
)
from saas.local.processes import MARK, Guard, children, end_leftovers
from saas.local.servers import START_SECONDS, Postgres, Server, Valkey, process_options, server_environment
from saas.local.standin import STANDIN

READY_SECONDS = 180.0
DRAIN_SECONDS = 75.0  # a worker or gateway that is replaced may finish its calls: the longest deadline and some more
WORKERS = "workers"  # inference/lanes.py: sorted set of the workers' names, scored with the second until which they are alive

_AS_ROOT = "ignore:You're running the worker with superuser privileges"  # Celery means pickled messages; ours are JSON ids
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the caller's proxy has no part in 127.0.0.1


class Supervisor:
    """One service on one data directory. `run()` returns the exit status."""

    def __init__(self, data_dir: Path, *, port: int, given: Mapping[str, str]) -> None:
        self.data_dir, self.port, self.given = claim(data_dir), port, given
        self.log = Log(self.data_dir / "log")
        self.servers: list[Postgres | Valkey] = []
        self.parts: dict[str, Part] = {}
        self.variables: dict[str, str] = {}
        self._worker_number = 0
        self._stop = asyncio.Event()
        self._restarting: asyncio.Task[Any] | None = None
        self._has_started = False
        self._began_at = time.monotonic()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def temporary(self) -> Path:
        """Where the parts keep what is worth nothing after them; what killed ones left is gone at the next start."""
        return self.data_dir / "tmp"

    async def run(self) -> int:
        """Start everything, serve until SIGINT, SIGTERM or `stop`, end everything. 1 if it could not start."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        lock = lock_or_refuse(self.data_dir)
        guard: Guard | None = None
        control = Control(control_path(self.data_dir), self._answer)
        try:
            self.servers = chosen_servers(self.data_dir, self.given)
            directories = [server.directory for server in self.servers]
            guard = Guard(self.data_dir, directories, lock=lock)  # a fork: before any thread
            await self._end_leftovers(directories)
            make_empty(self.temporary)
            refuse_taken_port(self.port)
            refuse_missing_gpu(self.given)
            await asyncio.to_thread(refuse_unreachable, self.given)
            await control.start()
            await self._until_stopped(self._start())
            await self._stop.wait()
            return 0
        except (CannotStart, PartFailed) as error:
            self.log.say(f"not started: {error}")
            return 1
        finally:
            await self._end()
            await control.stop()
            if guard is not None:
                guard.dismiss()
            os.close(lock)

    def stop(self) -> None:
        self._stop.set()

    async def restart(self, say: Callable[[str], None]) -> None:
        """Replace workers and gateway without a failed call, then the parts that answer nobody. Raises PartFailed."""
        if not self._has_started or self._restarting is not None:
            raise PartFailed("it is being started just now: try again when it is ready")
        self._restarting = asyncio.current_task()
        try:
            await self._replace_worker(say)
            await self._replace_gateway(say)
            for name in ("ops", "beat", "bookkeeper"):
                say(f"{name}: starting it again")
                recipe = self.parts[name].recipe
                await self.parts[name].stop(grace=DRAIN_SECONDS)
                await self._start_part(recipe)
            say("all parts were replaced")
        finally:
            self._restarting = None

    def status(self) -> dict[str, Any]:
        """What `status` tells of each part; seconds."""
        now = time.monotonic()
        return {
            name: {"pid": part.pid, "seconds": round(now - part.started_at, 1), "crashes": part.crashes}
            for name, part in self.parts.items()
        }

    async def _until_stopped(self, start: Any) -> None:
        """Run the start; a stop that comes meanwhile ends it."""
        starting, stopping = asyncio.ensure_future(start), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()

    async def _start(self) -> None:
        for server in self.servers:
            self.log.say(f"starting {server.name}")
            await self._start_server(server)
        self.variables = service_environment(self.data_dir, self.servers, self.given, port=self.port)
        save(self.data_dir, self.variables)
        await self._bootstrap()
        self.log.say("starting gateway, worker, bookkeeper, ops and beat")
        gateway, bookkeeper, *others = self._recipes()
        needs = [await self._start_part(recipe) for recipe in (self._worker(), gateway, bookkeeper)]
        await self.parts["gateway"].wait_until(self._is_ready, seconds=READY_SECONDS, needs=needs)
        for recipe in others:  # they answer nobody: at the start they would only take the processor from those that do
            await self._start_part(recipe)
        self._has_started = True
        self._tell_ready()

    async def _start_server(self, server: Server) -> None:
        part = await self._start_part(
            Recipe(
                server.name,
                server.command(),
                server_environment(self.data_dir),
                grace=1.5,
                stop_signal=server.stop_signal,
                last_signal=server.last_signal,
                prepare=server.prepare,
                process_options=process_options(server),
            )
        )

        async def is_ready() -> bool:
            return await asyncio.to_thread(server.is_ready)

        await part.wait_until(is_ready, seconds=START_SECONDS)
        if isinstance(server, Postgres):
            await asyncio.to_thread(server.create_database)

    async def _start_part(self, recipe: Recipe) -> Part:
        part = self.parts[recipe.name] = Part(recipe, self.log)
        await part.start()
        part.keep()
        return part

    def _environment(self) -> dict[str, str]:
        own = {
            MARK: str(self.data_dir),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": _AS_ROOT,
            "TMPDIR": str(self.temporary),
        }
        return {**os.environ, **self.variables, **own}

    async def _bootstrap(self) -> None:
        """Tables, catalogue, demo organization: saas.local.bootstrap in a process of its own, which needs Django."""
        command = [sys.executable, "-m", "saas.local.bootstrap"]
        has_demo = len(self.servers) == 3  # only beside embedded servers
        part = Part(self._recipe("setup", *command, *(["--demo"] if has_demo else []), grace=1.0), self.log)
        self.parts["setup"] = part
        await part.start()
        if part.process is not None and await part.process.wait():
            raise CannotStart("setting up the database failed: see the lines above")
        await part.stop()
        del self.parts["setup"]

    def _worker(self) -> Recipe:
        """A worker of its own name: while it is replaced there are two."""
        self._worker_number += 1
        return self._recipe(
            "worker" if self._worker_number == 1 else f"worker-{self._worker_number}",
            *_celery("worker", "-Q", f"infer.{self.given.get('ENGINE_HARDWARE') or 'cpu'}", "-P", "threads", "-c", "16"),
            "-n",
            f"infer{self._worker_number}@%h",
            grace=1.5,
        )

    def _recipes(self) -> list[Recipe]:
        beat_file = self.data_dir / "beat-schedule"
        python = sys.executable
        has_standin = not self.given.get("STRIPE_SECRET_KEY")
        standin = [self._recipe(STANDIN, python, "-m", "saas.local.stripe", grace=1.5)] if has_standin else []
        return [
            self._recipe("gateway", python, "-m", "gunicorn", "-c", "saas/gunicorn.py", "saas.asgi:application", grace=6.0),
            self._recipe("bookkeeper", python, "manage.py", "bookkeeper", grace=1.5),
            self._recipe("ops", *_celery("worker", "-Q", "ops", "-P", "threads", "-c", "4", "-n", "ops@%h"), grace=5.0),
            self._recipe("beat", *_celery("beat", "-s", str(beat_file), "--pidfile="), grace=2.0),
            *standin,
        ]

    def _recipe(self, name: str, *command: str, grace: float) -> Recipe:
        return Recipe(name, list(command), self._environment(), grace=grace, process_options={"cwd": ROOT})

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(answers, f"{self.base_url}/readyz")

    def _tell_ready(self) -> None:
        if STANDIN in self.parts:
            self.log.say(f"payments: the stand-in for Stripe at {self.variables['STRIPE_API_BASE']}; no money moves")
        self.log.say(f"ready after {time.monotonic() - self._began_at:.1f} s: {self.base_url}")
        demo = self.data_dir / "demo.json"
        if len(self.servers) == 3 and demo.exists():
            self.log.show(ready_text(json.loads(demo.read_text()), demo))

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stop.is_set():
            self.log.say(f"{number.name}: stopping")
        self._stop.set()

    async def _end_leftovers(self, directories: list[Path]) -> None:
        count = await asyncio.to_thread(end_leftovers, self.data_dir, directories)
        if count:
            self.log.say(f"{count} processes of an earlier start were still there and were ended")

    async def _end(self) -> None:
        """End all parts in their order; those of one stage together."""
        begun_at = time.monotonic()
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait({self._restarting})
        names = [name for name in self.parts if name not in ("postgres", "state", "lanes")]
        workers = [name for name in names if name.startswith("worker")]
        first = [name for name in names if name not in workers and name != "bookkeeper"]
        for stage in (first, [*workers, "bookkeeper"], ["postgres", "state", "lanes"]):
            await asyncio.gather(*(self.parts[name].stop() for name in stage if name in self.parts))
        self.parts.clear()
        forget(self.data_dir)
        self.log.say(f"stopped in {time.monotonic() - begun_at:.1f} s")

    async def _replace_worker(self, say: Callable[[str], None]) -> None:
        """Start a new worker, wait until gateways see it, then let the old one finish what it took."""
        old = next(part for name, part in self.parts.items() if name.startswith("worker"))
        before = await self._workers_alive()
        say("worker: starting a new one")
        new = await self._start_part(self._worker())

        async def is_seen() -> bool:
            return bool(await self._workers_alive() - before)

        try:
            await new.wait_until(is_seen, seconds=READY_SECONDS)
        except PartFailed:
            await new.stop()
            del self.parts[new.name]
            raise
        say("worker: the new one serves, the old one finishes")
        await old.stop(grace=DRAIN_SECONDS)
        del self.parts[old.name]

    async def _workers_alive(self) -> set[str]:
        async with redis.asyncio.Redis.from_url(self.variables["LANES_URL"]) as lanes:
            return {str(name) for name in await lanes.zrangebyscore(WORKERS, time.time(), "+inf")}

    async def _replace_gateway(self, say: Callable[[str], None]) -> None:
        """gunicorn's SIGHUP: new processes first, then the old ones finish their calls. The socket stays open throughout."""
        gateway = self.parts["gateway"]
        if gateway.pid is None:
            raise PartFailed("the gateway is not running just now: try again when it is back")
        old = children(gateway.pid)
        say("gateway: replacing its processes")
        gateway.signal(signal.SIGHUP)

        async def is_replaced() -> bool:
            now = children(gateway.pid or 0)
            return bool(now) and not now & old and await self._is_ready()

        await gateway.wait_until(is_replaced, seconds=DRAIN_SECONDS + READY_SECONDS)
        say("gateway: replaced")

    async def _answer(self, command: str, say: Callable[[str], None]) -> None:
        """One command of the control socket; what it says goes back line by line. Raises PartFailed."""
        if command == "status":
            say(json.dumps(self.status()))
        elif command == "restart":
            self.log.say("restart was asked for")

            def tell(text: str) -> None:
                self.log.say(text)
                say(text)

            await self.restart(tell)
        elif command == "stop":
            self.log.say("stop was asked for")
            self.stop()
        else:
            raise PartFailed(f"there is no command {command!r}")


def answers(url: str) -> bool:
    """Whether a GET gets a 200 within 3 s."""
    try:
        with _DIRECT.open(url, timeout=3) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ready_text(demo: Mapping[str, str], file: Path) -> str:
    """What the terminal shows when the service is ready: the address, the key, one call that works as it stands."""
    return f"""
  The service is ready at {demo["base_url"]}

    API key  {demo["api_key"]}   (organization {demo["organization"]})
    Admin    {demo["base_url"]}/admin/   {demo["admin_username"]}, password in {file}

  A first call:

    curl -s {demo["base_url"]}/api/v1/models/iris/predict -H 'Authorization: Bearer {demo["api_key"]}' \\
      -H 'Content-Type: application/json' -d '{{"inputs": [[5.1, 3.5, 1.4, 0.2]]}}'

  Ctrl-C stops it; `make restart` in another terminal replaces its parts without a failed call.
"""


def _celery(*arguments: str) -> list[str]:
    quiet = ["--without-gossip", "--without-mingle"] if arguments[0] == "worker" else []
    return [sys.executable, "-m", "celery", "--quiet", "-A", "saas", *arguments, *quiet, "--loglevel", "WARNING"]
