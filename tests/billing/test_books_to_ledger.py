"""Gateway's books, bookkeeper, ledger and verification together: the numbers agree while calls go on and after."""

import asyncio
import os
import subprocess
import sys
import threading

from billing.ledger.drain import Drain
from billing.ledger.hours import RollUp
from billing.ledger.rebuild import rebuild_wanted
from billing.ledger.writing import Link
from inference.books import accounts
from inference.books.client import Books
from inference.books.open_call import OpenCall
from inference.books.record import pack_opened
from saas.lib.ids import uuid7
from saas.lib.valkey import sync_client
from tests.billing.journal import differences_of, usage


class Background:
    """A drain, a roll-up and a rebuilder at work beside the test."""

    def __init__(self, url: str) -> None:
        self.drain, self.rollup, self.link, self.stopping = Drain(sync_client(url)), RollUp(), Link(), threading.Event()
        steps = (self.drain.step, self.rollup.step, self._rebuild)
        self.threads = [threading.Thread(target=self._run, args=(step,)) for step in steps]

    def _rebuild(self) -> None:
        rebuild_wanted(self.link)

    def _run(self, step) -> None:
        while not self.stopping.wait(0.01):
            step()

    def __enter__(self) -> "Background":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        while self.drain.step():
            pass
        self.drain.close()
        self.rollup.close()
        self.link.close()


async def answer(books: Books, tenant, key: str, number: int) -> str:
    """One call from open to close, opened again while its account is unknown; every fifth fails. Its last verdict."""
    begun = {"closed_ms": 0, "nano": 0, "bytes_in": 0, "bytes_out": 0, "queue_us": 0, "compute_us": 0}
    record = usage(tenant, key=key, max_nano=9, **begun)
    verdict = "unknown"
    while verdict == "unknown":
        opened = asyncio.get_running_loop().create_future()
        packed = pack_opened(record)
        call = OpenCall(
            record.call, tenant.hex, key, record.period, 9, "live", packed, lambda got, _, done=opened: done.set_result(got)
        )
        books.open(call)
        verdict = await opened
        if verdict == "unknown":
            await asyncio.sleep(0.02)
    if verdict != "open":
        return verdict
    closed = asyncio.get_running_loop().create_future()
    if number % 5 == 0:
        books.undo(call, closed.set_result)
    else:
        record.nano = number % 7
        books.close(call, record, None, closed.set_result)
    return await closed


async def test_accounts_equal_the_ledger_while_calls_go_on_and_after(embedded, tenant, ledger):
    books, key = Books(embedded["STATE_URL"]), uuid7().hex
    await books.start()
    with Background(embedded["STATE_URL"]):
        for start in range(0, 300, 50):
            verdicts = await asyncio.gather(*(answer(books, tenant, key, number) for number in range(start, start + 50)))
            assert set(verdicts) == {"closed"}
            lines = await asyncio.to_thread(differences_of, tenant)
            assert lines == []
        await books.stop(5)

    rows = [number for number in range(300) if number % 5]
    assert ledger("SELECT count(*), sum(amount_nano) FROM usage_event WHERE tenant_id = %s", tenant) == [
        (len(rows), sum(number % 7 for number in rows))
    ]
    assert accounts.read(tenant.hex).sums["organization", "ever"] == (len(rows), sum(number % 7 for number in rows))
    assert differences_of(tenant) == []


def test_the_command_says_what_differs(embedded, tenant, state, journal, ledger):
    journal.add(usage(tenant))  # in a journal that the rebuild does not know: the account misses it
    drain = Drain(state, stream=journal.name)
    drain.step()
    state.hset(f"account:{tenant.hex}", "limits_version", 0)

    run = subprocess.run([sys.executable, "manage.py", "verify_books"], env=os.environ, capture_output=True, text=True)

    assert run.returncode == 1
    assert f"account calls:ever:: organization {tenant}: it holds 0, ledger + journal + open are 1" in run.stdout
    state.delete(f"account:{tenant.hex}")
