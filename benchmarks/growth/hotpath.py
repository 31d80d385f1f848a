"""Whether the work of a call grows with what the platform holds, in processor time.

    python -m benchmarks.growth.hotpath

Two platforms side by side, measured in turns: a small one, and one with 100,000 organizations, their keys and limits, 10,000
models and 100 workers. On both, ticks of 64 calls of 64 organizations go through the gateway's own classes:

- `books`: open and close, at the state server (gateway and state server);
- `lanes`: admission, the way through the lane to a worker that waits, reply and release (gateway and lanes server; workers are
  simulated, in a process of their own that is not counted, but wait and tell as real ones do; 50 versions are loaded);
- `routing`: key and model of a call found in the gateway's memory (gateway);
- `look-up`: the same where memory does not have them and the lanes server does (gateway and lanes server).

The exit status is 0 if each costs at most 1.2 times as much on the large one.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count
from typing import Any, NamedTuple

import msgspec
import redis

from benchmarks.growth import with_django  # noqa: F401  # before the others

# isort: split
from benchmarks.opening import PERIOD, open_call
from benchmarks.valkeys import cpu_of, valkey
from inference.books import accounts
from inference.books.client import Books
from inference.books.open_call import OpenCall
from inference.books.record import UsageRecord
from inference.books.scripts import account_key
from inference.gateway.access import Access
from inference.gateway.call import Call
from inference.gateway.lanes import Admitted, Lanes
from inference.gateway.records import Records
from inference.holders import holder_key
from inference.lanes import Reply
from inference.routes import ModelRoute, TensorSpec, VersionRoute, pack_route
from saas.lib.ids import uuid7, uuid7_hex
from saas.lib.valkey import sync_client
from tenants.principal import KeyRecord, Limits, pack_key

TICK = 64  # calls, each of another organization
RESIDENT = 50  # versions that each worker has loaded
GOAL = 1.2
LIMITS = Limits(rate=1e6, burst=1_000_000, concurrency=10_000)
MOST = 1_000_000  # nano of a call
ROUTES_TICKS = 100  # a tick of look-ups in memory takes too little to be measured alone


class Size(NamedTuple):
    organizations: int
    models: int
    workers: int


SMALL, LARGE = Size(100, RESIDENT, 2), Size(100_000, 10_000, 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="of each measurement, on each platform")
    parser.add_argument("--ticks", type=int, default=100, help=f"of {TICK} calls, in a turn")
    given = parser.parse_args()
    costs = asyncio.run(measured(SMALL, LARGE, turns=given.turns, ticks=given.ticks))
    print("| | small, µs a call | large, µs a call | ratio (least and most of a turn) | |\n|---|---:|---:|---:|---|")
    is_met = True
    for name, (small, large) in costs.items():
        ratio = statistics.median(large) / statistics.median(small)
        ratios = [theirs / ours for ours, theirs in zip(small, large, strict=True)]
        is_met = is_met and ratio <= GOAL
        shown = f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {'met' if ratio <= GOAL else '**missed**'}"
        print(f"| {name} | {statistics.median(small):.1f} | {statistics.median(large):.1f} | {shown} |")
    return 0 if is_met else 1


async def measured(small: Size, large: Size, *, turns: int, ticks: int) -> dict[str, tuple[list[float], list[float]]]:
    """By measurement: microseconds of processor time a call in each turn, on the small and on the large platform."""
    async with AsyncExitStack() as stack:
        platforms = [await stack.enter_async_context(platform(size)) for size in (small, large)]
        found: dict[str, tuple[list[float], list[float]]] = {}
        for turn in range(-1, turns):
            for place, one in enumerate(platforms):
                for name, cost in [(name, await measure(ticks)) for name, measure in one.measurements().items()]:
                    if turn >= 0:  # the first one warms
                        found.setdefault(name, ([], []))[place].append(cost)
        return found


@asynccontextmanager
async def platform(size: Size) -> AsyncIterator["Platform"]:
    with valkey(**{"appendonly": "yes", "auto-aof-rewrite-percentage": "0"}) as state, valkey() as lanes:
        made = Platform(size, state, lanes)
        made.fill()
        with workers(lanes, [route.versions["1.0.0"].id for route in made.routes[:RESIDENT]], size.workers):
            await made.start()
            try:
                yield made
            finally:
                await made.stop()


@contextmanager
def workers(url: str, versions: list[str], number: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.growth.workers", url, str(number)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(versions) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the simulated workers do not start")
        yield
    finally:
        process.kill()
        process.communicate()


class Platform:
    """What the state server and the lanes server hold, and a gateway's classes beside them."""

    def __init__(self, size: Size, state_url: str, lanes_url: str) -> None:
        self._chance = random.Random(7)  # noqa: S311  # the same in every run
        self._state, self._lanes = sync_client(state_url), sync_client(lanes_url)
        self.keys = [key_record() for _ in range(size.organizations)]
        self.routes = [model_route(number) for number in range(size.models)]
        self._books = Books(state_url)
        self._gateway = Lanes(
            lanes_url, uuid7().hex, lane_max_ms=1e6, on_admitted=self._on_admitted, on_reply=self._on_reply,
            on_changed=lambda name: None, on_lost=lambda: None, on_worker_lost=lambda: None,
        )  # fmt: skip
        self._records = Records(self._gateway)
        self._access = Access(self._records)
        self._numbers = count(1)
        self._waiting: dict[int, Call] = {}
        self._done = asyncio.Event()

    def fill(self) -> None:
        """Accounts with limits and sums, keys, models, and holders, as of calls a moment ago."""
        ample = accounts.LIMIT_MAX
        now = time.time()
        holder = msgspec.msgpack.encode([float(LIMITS.burst - 1), now, now + 3600.0])
        for first in range(0, len(self.keys), 1000):
            with self._state.pipeline(transaction=False) as state, self._lanes.pipeline(transaction=False) as lanes:
                for key in self.keys[first : first + 1000]:
                    limits = accounts.AccountLimits(None, {}, 0, None, ample, {key.id: ample}, ample).fields()
                    fields: dict[Any, Any] = {"limits_version": 0, **limits, **dict.fromkeys(sum_names(key), 1)}
                    state.hset(account_key(key.organization), mapping=fields)
                    lanes.set(f"key:{key.public_id}", pack_key(key), ex=3600)
                    lanes.set(holder_key(key.id), holder, ex=3600)
                    lanes.set(holder_key(key.organization), holder, ex=3600)
                state.execute()
                lanes.execute()
        for route in self.routes:
            self._lanes.set(route_name(route), pack_route(route), ex=3600)

    async def start(self) -> None:
        await asyncio.gather(self._books.start(), self._gateway.start())
        while not self._gateway.workers:
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        await self._books.stop()
        await self._gateway.stop()
        self._records.close()
        self._state.close()
        self._lanes.close()

    def measurements(self) -> dict[str, Callable[[int], Awaitable[float]]]:
        return {
            "books": lambda ticks: self._cost(self._state, ticks, self._open_and_close),
            "lanes": lambda ticks: self._cost(self._lanes, ticks, self._through_a_lane),
            "routing": self._routing,
            "look-up": lambda ticks: self._cost(self._lanes, ticks, self._look_up),
        }

    async def _cost(self, server: redis.Redis, ticks: int, tick: Callable[[], Awaitable[None]]) -> float:
        before = time.process_time() + cpu_of(server)
        for _ in range(ticks):
            await tick()
        spent = time.process_time() + cpu_of(server) - before
        self._state.delete("journal")
        return spent / ticks / TICK * 1e6

    def _some(self) -> list[KeyRecord]:
        return self._chance.sample(self.keys, TICK)

    # --- books

    async def _open_and_close(self) -> None:
        opened: list[tuple[OpenCall, UsageRecord]] = []
        done = asyncio.Event()
        left = [TICK]

        def on_open(verdict: str, note: bytes | None) -> None:
            assert verdict == "open", verdict
            left[0] -= 1
            if not left[0]:
                done.set()

        for key in self._some():
            call, record = open_call(key.organization, key.id, most=MOST, now_ms=self._books.now_ms(), on_open=on_open)
            opened.append((call, record))
            self._books.open(call)
        await done.wait()
        closed = asyncio.Event()
        for call, record in opened:
            record.nano = MOST // 2
            self._books.close(call, record, None, lambda verdict: closed.set())
        await closed.wait()

    # --- lanes

    async def _through_a_lane(self) -> None:
        route = self._chance.choice(self.routes[:RESIDENT])
        self._done.clear()
        for key in self._some():
            call = lane_call(key, route, next(self._numbers))
            self._waiting[call.number] = call
            self._gateway.push(call)
        await self._done.wait()

    def _on_admitted(self, calls: list[Call], admitted: Admitted) -> None:
        assert admitted[0] == len(calls), admitted

    def _on_reply(self, reply: Reply) -> None:
        self._gateway.release(self._waiting.pop(reply.number))
        if not self._waiting:
            self._done.set()

    # --- routing

    async def _routing(self, ticks: int) -> float:
        """With all models in memory, and as many keys as fit beside them."""
        now, known = time.monotonic(), self._records._known
        known.update({route_name(route): (route, now) for route in self.routes})
        known.update({f"key:{key.public_id}": (key, now) for key in self.keys})
        asked = [(key, self._chance.choice(self.routes)) for key in self._chance.choices(self.keys, k=TICK * ROUTES_TICKS)]
        before = time.process_time()
        for key, route in asked:
            assert self._access.is_current(key)
            assert self._access.route(key, route.owner_slug, route.name) is route
        spent = time.process_time() - before
        known.clear()
        return spent / len(asked) * 1e6

    async def _look_up(self) -> None:
        for key in self._some():
            route = self._chance.choice(self.routes)
            found, model = await asyncio.gather(
                self._records.fetch(f"key:{key.public_id}"), self._records.fetch(route_name(route))
            )
            assert (found.id, model.id) == (key.id, route.id)
        self._records._known.clear()


def sum_names(key: KeyRecord) -> list[str]:
    """The fields of an account (inference/books/prelude.lua) that a call raises."""
    return [f"{kind}:{period}:{who}" for kind in ("calls", "nano") for period in ("ever", PERIOD) for who in ("", key.id)]


def route_name(route: ModelRoute) -> str:
    return f"route:public:{route.owner_slug}:{route.name}"


def key_record() -> KeyRecord:
    return KeyRecord(
        public_id=uuid7().hex[-12:], id=uuid7().hex, organization=uuid7().hex, slug="acme", mode="live", hash=b"h" * 32,
        pepper_version=1, scopes=["models:read", "predictions:write"], models=None, expires_at=None, is_active=True,
        limits=LIMITS, organization_limits=LIMITS, is_capped=True, data_key_id=uuid7().hex, data_key=b"k" * 60,
    )  # fmt: skip


def model_route(number: int) -> ModelRoute:
    specs = [TensorSpec("x", "FP32", [-1, 4])]
    version = VersionRoute(
        id=uuid7().hex, number="1.0.0", digest="d" * 64, state="ready", inputs=specs, outputs=specs, has_batch=True,
        is_batchable=True, ms_per_row=0.01,
    )  # fmt: skip
    return ModelRoute(
        id=uuid7().hex, name=f"model-{number}", owner="c" * 32, owner_slug="catalog", is_public=True, task="tensor",
        versions={"1.0.0": version}, aliases={"production": "1.0.0"},
    )  # fmt: skip


def lane_call(key: KeyRecord, route: ModelRoute, number: int) -> Call:
    call = Call(
        key=key, route=route, version=route.versions["1.0.0"], endpoint="infer", rows=1, render=_unused, done=_unused,
        inputs=[("x", "FP32", [1, 4], b"0123456789abcdef")], bytes_in=100,
    )  # fmt: skip
    call.number, call.id, call.deadline = number, uuid7_hex(int(time.time() * 1000)), time.time() + 30
    return call


def _unused(*_: Any) -> Any:
    raise AssertionError("nothing is rendered here")


if __name__ == "__main__":
    raise SystemExit(main())
