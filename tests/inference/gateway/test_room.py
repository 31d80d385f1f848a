"""What a gateway takes on: bounded, also while a server that it needs hangs."""

import asyncio
import os
import signal
from contextlib import contextmanager

import pytest

from inference.gateway import lanes, running
from inference.gateway.weight import LIGHT
from inference.lanes import Tensor
from saas.lib.valkey import sync_client
from tests.inference.gateway.test_line import desk  # noqa: F401  # a fixture
from tests.waiting import until_async

DATA: Tensor = ("x", "UINT8", [300_000], bytes(300_000))


@contextmanager
def hung(url):
    """The server is there, its connections too, and nothing answers."""
    client = sync_client(url)
    pid = client.info("server")["process_id"]
    client.close()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def refused(desk):  # noqa: F811
    """What a new call is refused with at once; None: it is taken."""
    _, outcome = desk.ask(timeout=0.01)
    return outcome.result() if outcome.done() else None


@pytest.mark.parametrize("server", ["STATE_URL", "LANES_URL"])
async def test_while_a_server_hangs_deadlines_run_new_calls_get_503_and_it_recovers_by_itself(desk, embedded, server):  # noqa: F811
    with hung(embedded[server]):
        _, waiting = desk.ask(timeout=0.2)
        assert (await waiting).code == "deadline_exceeded"
        await until_async(lambda: refused(desk))
        error = refused(desk)
        assert (error.status, error.code, error.retry_after) == (503, "unavailable", 1)

    await until_async(lambda: desk.gateway.lanes.takes_calls and desk.gateway.books.may_answer())
    await desk.lanes.delete(f"pool:{desk.hardware}")  # what the refused ones left
    _, outcome = desk.ask(timeout=60.0)
    while not outcome.done():
        await desk.reply(await desk.take())
        await asyncio.wait([outcome], timeout=1)
    assert outcome.result().status == 200
    await until_async(lambda: not desk.gateway.running.calls)
    await until_async(lambda: desk.calls_this_month() == 1)


async def test_what_a_hung_lanes_server_has_not_taken_is_bounded(desk, embedded, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lanes, "MAX_BUFFERED", 1 << 20)
    outcomes = []
    with hung(embedded["LANES_URL"]):
        for _ in range(50):
            outcomes.append(desk.ask(inputs=[DATA], timeout=0.5)[1])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert desk.gateway.lanes._commands.buffered < 10 << 20

    codes = {error.code for error in await asyncio.gather(*outcomes)}
    assert "unavailable" in codes
    assert codes <= {"unavailable", "deadline_exceeded"}


async def test_calls_under_way_are_bounded_and_a_place_that_is_freed_is_taken(desk, monkeypatch):  # noqa: F811
    monkeypatch.setattr(running, "MAX_CALLS", 1)
    _, first = desk.ask()
    error = refused(desk)
    assert (error.code, error.retry_after, error.source) == ("capacity_exhausted", 1, "platform")
    await desk.reply(await desk.take())
    await first

    _, second = desk.ask()
    await desk.reply(await desk.take())
    assert (await second).status == 200


async def test_bytes_under_way_are_bounded_for_an_organization_and_for_all(desk, monkeypatch):  # noqa: F811
    monkeypatch.setattr(running, "SHARE_BYTES", 3 * LIGHT)
    _, first = desk.ask(bytes_in=2 * LIGHT)
    _, second = desk.ask(bytes_in=2 * LIGHT)
    assert (second.result().code, second.result().source) == ("concurrency_limited", "organization")
    monkeypatch.setattr(running, "MAX_BYTES", 3 * LIGHT)
    monkeypatch.setattr(running, "SHARE_BYTES", 9 * LIGHT)
    _, third = desk.ask(bytes_in=2 * LIGHT)
    assert (third.result().code, third.result().source) == ("capacity_exhausted", "platform")
    await desk.reply(await desk.take())
    await first

    assert not desk.gateway.running._bytes
    _, fourth = desk.ask(bytes_in=9 * LIGHT)
    await desk.reply(await desk.take())
    assert (await fourth).status == 200


async def test_bytes_that_wait_refuse_large_calls_before_small_ones(desk, embedded, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lanes, "MAX_BUFFERED", 6 << 20)
    with hung(embedded["LANES_URL"]):
        while desk.gateway.lanes.takes_large_calls:
            desk.gateway.lanes._large.send(None, "ECHO", bytes(300_000))
        large, small = desk.ask(bytes_in=1 << 20)[1], desk.ask()[1]

        assert (await large).code == "capacity_exhausted"
        assert not small.done()
        desk.gateway.running.fail_all("enough", has_reply=True)
        await small
