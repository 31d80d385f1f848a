"""Many connections at once: several come in with each turn of the loop, and who is in already is served in between."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest
import uvloop

from saas import doors
from tests.saas.serving import Served, request_bytes
from tests.waiting import until

LIVE = request_bytes("/v2/health/live", method="GET")
CROWD = 400


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(run=uvloop.run) as running:
        yield running


def connections(served: Served) -> int:
    return len(served.server.server_state.connections)


def come_in(served: Served, crowd: ExitStack) -> list[int]:
    """Have CROWD connections wait, then look; the number of those inside after each turn from then on."""

    async def run() -> list[int]:
        for _ in range(CROWD):
            crowd.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        before = connections(served)
        await served.server.on_tick(1)
        inside = [0]
        while inside[-1] < CROWD:
            await asyncio.sleep(0)
            inside.append(connections(served) - before)
        return inside

    return asyncio.run_coroutine_threadsafe(run(), served.loop).result(30)


def test_a_crowd_comes_in_by_many_a_turn_and_by_no_more_than_that(served):
    with ExitStack() as crowd:
        inside = come_in(served, crowd)

        came = [now - before for before, now in pairwise(inside)]
        assert max(came) <= 1 + doors.MORE
        assert len(came) <= CROWD // 10  # it would be one for each


def test_who_is_in_is_served_while_a_crowd_comes_in(served):
    with ExitStack() as crowd, served.connect() as inside:
        inside.send(LIVE)
        assert inside.response()[0] == 200
        answered = served.server.server_state.total_requests

        async def run() -> int:
            """How many of the crowd are in when the one that was in is answered."""
            for _ in range(CROWD):
                crowd.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            before = connections(served)
            await served.server.on_tick(1)
            inside.send(LIVE)
            while served.server.server_state.total_requests <= answered:
                await asyncio.sleep(0)
            return connections(served) - before

        assert asyncio.run_coroutine_threadsafe(run(), served.loop).result(30) < CROWD
        assert inside.response()[0] == 200


def test_the_other_doors_close_when_few_wait_and_leave_no_file_behind():
    with Served(run=uvloop.run) as served:
        with served.connect() as earlier:
            earlier.send(LIVE)
            assert earlier.response()[0] == 200
        until(lambda: connections(served) == 0)
        before = len(os.listdir("/proc/self/fd"))
        with ExitStack() as crowd:
            come_in(served, crowd)
        until(lambda: connections(served) == 0)
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # a last one may have been closing when they were counted

        with served.connect() as later:
            later.send(LIVE)
            assert later.response()[0] == 200


def test_a_stop_while_a_crowd_comes_in_closes_all_doors():
    with Served(run=uvloop.run) as served, ExitStack() as crowd:

        async def run() -> None:
            for _ in range(CROWD):
                crowd.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            await served.server.on_tick(1)
            served.server.should_exit = True

        asyncio.run_coroutine_threadsafe(run(), served.loop).result(30)
        served.thread.join(30)
        assert not served.thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port))
