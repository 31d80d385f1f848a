"""Which faults a drill makes, and how it makes them."""

import asyncio
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import redis
import requests

from tests.drill.evidence import Upset
from tests.drill.hours import Hours
from tests.drill.points import BY_NAME, POINTS
from tests.service import Service

PARTS = ("gateway", "worker", "bookkeeper", "beat", "ops", "stripe", "state", "lanes", "postgres")
KINDS = ("KILL", "STOP", "TERM")
SERVERS = ("state", "lanes", "postgres")
FIRED_WITHIN = 90.0  # seconds until a planned point has been passed
BACK_WITHIN = 180.0  # seconds until calls are answered again
BACK_ANSWERS = 3  # in a row


class DrillFailed(Exception):
    """The drill itself could not be done: a point that is not there or never passed, a part that does not come back."""


@dataclass
class Fault:
    """`part` gets signal `kind`; at a named point if there is one, else at a random time."""

    number: int
    part: str
    kind: str
    point: str | None = None
    nth: int = 1
    seconds: float = 15.0  # that a STOP lasts, and that PostgreSQL's polite end may take
    began_at: float = 0.0
    back_after: float = 0.0  # seconds from the signal until calls were answered again

    def __str__(self) -> str:
        return f"{self.kind} {self.part} at {self.point or 'a random time'}"

    @property
    def is_of_itself(self) -> bool:
        """Whether the process that passes the point is the one that gets the signal."""
        return self.point is not None and BY_NAME[self.point].part == self.part

    def upsets(self) -> list[Upset]:
        """What fell by it: the part, and the one whose end made its point be passed."""
        point = BY_NAME[self.point] if self.point else None
        fallen = [(self.part, self.kind)] + ([(point.trigger, "KILL")] if point and point.trigger else [])
        return [Upset(part, kind, self.began_at, self.began_at + self.back_after) for part, kind in fallen]


def plan(count: int, *, seed: int, seconds: float) -> list[Fault]:
    """`count` faults, half of them at points. Every part with every kind comes before any comes twice, and every point too."""
    rng = random.Random(seed)
    anywhere, points = _shuffled(rng, list(itertools.product(PARTS, KINDS))), _shuffled(rng, POINTS)
    kinds = _shuffled(rng, list(KINDS))
    faults = []
    for number in range(1, count + 1):
        if number % 2:
            part, kind = next(anywhere)
            faults.append(Fault(number, part, kind, seconds=seconds))
            continue
        point = next(points)
        servers = ("postgres", "stripe") if point.needs_hour else SERVERS
        part = point.part if rng.random() < 0.5 else rng.choice([point.part, *servers])
        nth = rng.randint(1, point.passes)
        faults.append(Fault(number, part, next(kinds), point.name, nth=nth, seconds=seconds))
    return faults


def _shuffled(rng: random.Random, things: list):
    """All of them in random order, again and again."""
    while True:
        yield from rng.sample(things, len(things))


class Injector:
    """Makes faults in a service that runs with the drill's taps. `probe()` tells whether a call is answered just now."""

    def __init__(
        self, service: Service, directory: Path, *, seed: int, probe: Callable[[], Awaitable[bool]], hours: Hours
    ) -> None:
        self.service, self.directory, self.probe, self.hours = service, directory, probe, hours
        self.random = random.Random(seed)

    async def inject(self, fault: Fault) -> None:
        """Make it, and wait until calls are answered again. Raises DrillFailed."""
        victims = await asyncio.to_thread(self._victims, fault)
        await asyncio.to_thread(self.hours.end_one)
        if fault.point is None:
            if fault.part == "stripe":
                await asyncio.to_thread(self._tell_usage)
            await asyncio.sleep(self.random.random())
            fault.began_at = time.monotonic()
            _signal(victims, fault.kind)
        else:
            victims = await self._at_point(fault, victims)
        await self._after(fault, victims)
        await self._back(fault, victims)
        fault.back_after = time.monotonic() - fault.began_at
        self.fail_if_missing()

    async def _at_point(self, fault: Fault, victims: list[int]) -> list[int]:
        """Plan it and wait until it has struck. Returns whom."""
        point = BY_NAME[fault.point or ""]
        wanted = {"number": fault.number, "point": point.name, "nth": fault.nth, "signal": f"SIG{fault.kind}"}
        wanted["pids"] = [] if fault.is_of_itself else victims
        unfinished = self.directory / "plan.new"
        unfinished.write_text(json.dumps(wanted))
        fault.began_at = time.monotonic()
        unfinished.replace(self.directory / "plan.json")
        if point.trigger is not None:
            await asyncio.to_thread(self.service.kill, point.trigger)
        if point.needs_hour:
            await asyncio.to_thread(self._tell_usage)
        fired = self.directory / f"fired-{fault.number}"

        def has_fired() -> bool:
            self.fail_if_missing()
            return fired.exists() and bool(fired.read_text())

        await _until(has_fired, FIRED_WITHIN, f"fault {fault.number}: point {point.name}")
        return [int(fired.read_text())] if fault.is_of_itself else victims

    async def _after(self, fault: Fault, victims: list[int]) -> None:
        if fault.kind == "STOP":
            await asyncio.sleep(fault.seconds)
            _signal(victims, "CONT")
        elif fault.kind == "TERM" and fault.part == "postgres":
            await asyncio.sleep(fault.seconds)
            _signal(
                victims[:1], "INT"
            )  # SIGTERM lets every connected client stay; SIGINT is how it is told to end after a while

    async def _back(self, fault: Fault, victims: list[int]) -> None:
        deadline = time.monotonic() + BACK_WITHIN
        if fault.kind != "STOP":
            await _until(lambda: not _is_alive(victims[0]), BACK_WITHIN, f"fault {fault.number}: the end of {fault.part}")
        await asyncio.to_thread(self._await_parts, deadline, fault)
        answered = 0
        while answered < BACK_ANSWERS:
            if time.monotonic() > deadline:
                raise DrillFailed(f"fault {fault.number} ({fault}): no answers {BACK_WITHIN:g} s later")
            answered = answered + 1 if await self.probe() else 0
            await asyncio.sleep(0.05)

    def _await_parts(self, deadline: float, fault: Fault) -> None:
        while not (all(part["pid"] for part in self.service.status().values()) and self._servers_answer()):
            if time.monotonic() > deadline:
                raise DrillFailed(f"fault {fault.number} ({fault}): not all parts have come back: {self.service.status()}")
            time.sleep(0.1)

    def _victims(self, fault: Fault) -> list[int]:
        """Whom a signal that does not come from the process itself goes to, the part's first process in front."""
        first = self.service.process(fault.part)
        tree = [first, *_descendants(first)]
        if fault.kind == "STOP":
            return tree
        if fault.part == "gateway" and len(tree) > 1:
            return [self.random.choice(tree[:2])]  # gunicorn's master, or the process that serves
        return [first]

    def _servers_answer(self) -> bool:
        try:
            with self.service.state() as state, self.service.lanes() as lanes:
                answer = state.ping() and lanes.ping() and self.service.rows("SELECT 1") and self.hours.now()
            return bool(answer)
        except (redis.RedisError, psycopg2.OperationalError, requests.RequestException):
            return False

    def _tell_usage(self) -> None:
        """Have Stripe told of the hour that has just ended, as soon as it is sealed."""
        if not self.hours.are_sealed(within=FIRED_WITHIN):
            raise DrillFailed(f"the hours were not sealed within {FIRED_WITHIN:g} s")
        self.hours.push()

    def fail_if_missing(self) -> None:
        missing = sorted(self.directory.glob("missing-*"))
        if missing:
            raise DrillFailed("; ".join(f"{path.name}: {path.read_text()}" for path in missing))


def _signal(pids: list[int], kind: str) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[f"SIG{kind}"])


def _descendants(pid: int) -> list[int]:
    with suppress(OSError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return children + [below for child in children for below in _descendants(child)]
    return []


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def _until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise DrillFailed(f"{what} did not come about within {seconds:g} s")
        await asyncio.sleep(0.05)
