"""Work beside the loop: in turns, and bounded."""

import asyncio
import threading

import pytest

from inference.gateway import threads
from inference.gateway.threads import Thread
from saas.lib.errors import CapacityExhausted, ConcurrencyLimited

pytestmark = pytest.mark.no_servers


class Bench:
    """A thread whose first job a test holds up; `order` is who was served."""

    def __init__(self):
        self.thread, self.may_go_on, self.order = Thread("test"), threading.Event(), []
        self.first = self.thread.run("first", 1, lambda: self.may_go_on.wait(60))

    def add(self, organization, size=1):
        return self.thread.run(organization, size, lambda: self.order.append(organization))


@pytest.fixture
async def bench():
    bench = Bench()
    yield bench
    bench.may_go_on.set()
    bench.thread.close()


async def test_work_runs_in_another_thread_and_its_result_and_error_come_back(bench):
    bench.may_go_on.set()

    assert await bench.thread.run("a", 1, threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await bench.thread.run("a", 1, lambda: 1 // 0)


async def test_organizations_take_turns(bench):
    jobs = [bench.add(organization) for organization in ("a", "a", "a", "b", "c", "b")]
    bench.may_go_on.set()
    await asyncio.gather(*jobs)

    assert bench.order == ["a", "b", "c", "a", "b", "a"]


async def test_an_organization_has_a_share_and_others_go_on(bench):
    jobs = [bench.add("a") for _ in range(threads.SHARE_JOBS)]
    with pytest.raises(ConcurrencyLimited) as refusal:
        bench.add("a")
    jobs.append(bench.add("b", threads.SHARE_BYTES))
    with pytest.raises(ConcurrencyLimited):
        bench.add("b")

    assert (refusal.value.source, refusal.value.retry_after) == ("organization", 1)
    bench.may_go_on.set()
    await asyncio.gather(*jobs)
    await bench.add("a", threads.SHARE_BYTES)


async def test_all_organizations_together_are_bounded(bench):
    jobs = [bench.add(f"{n}", threads.MAX_BYTES // 4) for n in range(3)]
    with pytest.raises(CapacityExhausted):
        bench.add("more", threads.MAX_BYTES // 4)
    bench.may_go_on.set()
    await asyncio.gather(*jobs)
    await bench.add("more", threads.MAX_BYTES // 4)


async def test_one_job_may_be_larger_than_a_share(bench):
    bench.may_go_on.set()
    await bench.first
    await bench.add("a", threads.MAX_BYTES + 1)


async def test_what_nobody_waits_for_any_more_is_left_out_and_counts_no_more(bench):
    jobs = [bench.add("a") for _ in range(threads.SHARE_JOBS)]
    for job in jobs:
        job.cancel()
    bench.may_go_on.set()
    await bench.first
    await bench.add("a")

    assert bench.order == ["a"]
