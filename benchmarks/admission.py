"""`python -m benchmarks.admission`: what limits on money cost per call, in processor time of gateway and state server together.

Callers open and close calls in the books of one process, against a state server of this run's own; without any limit, and with
all of them (budgets of organization and key, credit, included calls), in turns. Processor time, not time: the ratio holds on a
busy machine too, if not each number.
"""

import asyncio
import os
import statistics
import time

import redis

from benchmarks.opening import open_call
from benchmarks.valkeys import cpu_of, valkey
from inference.books import accounts
from inference.books.client import Books
from saas.lib.ids import uuid7
from saas.lib.valkey import sync_client

CALLERS, CALLS, TURNS = 64, 10_000, 7
KEY = "1" * 32
MOST = 1000  # nano of a call
AMPLE = accounts.LIMIT_MAX
NONE = accounts.NO_LIMITS
ALL = accounts.AccountLimits(None, {}, 0, AMPLE, AMPLE, {KEY: AMPLE}, AMPLE)
GOAL = 1.10


def main() -> int:
    with valkey(appendonly="yes") as url:
        costs = asyncio.run(measured(url))
    for name, turns in costs.items():
        print(f"{name:12} {statistics.median(turns):6.1f} µs per call  ({', '.join(f'{turn:.1f}' for turn in turns)})")
    ratio = statistics.median(costs["limits"]) / statistics.median(costs["no limits"])
    print(f"with limits  {ratio:6.3f} times as much; the goal is at most {GOAL}")
    return 0 if ratio <= GOAL else 1


async def measured(url: str, *, calls: int = CALLS, turns: int = TURNS) -> dict[str, list[float]]:
    """Microseconds of processor time per call, of both processes, in each turn."""
    costs: dict[str, list[float]] = {"no limits": [], "limits": []}
    tenants = {name: uuid7().hex for name in costs}
    with sync_client(url) as state:
        for name, limits in (("no limits", NONE), ("limits", ALL)):
            accounts.create(tenants[name], state=state)
            accounts.set_limits(tenants[name], limits, state=state)
        books = Books(url)
        await books.start()
        for turn in range(-1, turns):
            for name, tenant in tenants.items():
                before = _cpu(state)
                await asyncio.gather(*(_caller(books, tenant, calls // CALLERS) for _ in range(CALLERS)))
                spent = _cpu(state) - before
                if turn >= 0:  # the first one warms
                    costs[name].append(spent / calls * 1e6)
                state.delete("journal")
        await books.stop()
    return costs


def _cpu(state: redis.Redis) -> float:
    """Seconds of processor time that this process and the state server have had."""
    return time.process_time() + cpu_of(state)


async def _caller(books: Books, tenant: str, calls: int) -> None:
    """Open a call, wait until it is open, close it; so many."""
    told = asyncio.Event()
    for _ in range(calls):
        told.clear()

        def on_open(verdict: str, note: bytes | None) -> None:
            assert verdict == "open", verdict
            told.set()

        call, record = open_call(tenant, KEY, most=MOST, now_ms=books.now_ms(), on_open=on_open)
        books.open(call)
        await told.wait()
        record.nano = MOST // 2
        books.close(call, record)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "saas.settings")
    raise SystemExit(main())
