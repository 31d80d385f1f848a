"""Large replies wait on the lanes server, bounded; whatever organizations do, the gateway's subscription stays."""

import asyncio
from contextlib import closing, contextmanager

import msgspec
import pytest

from inference import replies
from inference.lane_connection import LaneConnection
from inference.lanes import Reply, kept_key, replies_channel, unpack_replies
from saas.lib.valkey import sync_client
from tests.inference.gateway.test_line import desk  # noqa: F401  # a fixture
from tests.waiting import PATIENCE, until_async

MIB = 1 << 20


@pytest.fixture(autouse=True)
def room(monkeypatch):
    monkeypatch.setattr(replies, "MOST_KEPT", 16 * MIB)


@pytest.fixture
def publish(embedded):
    """What a worker does; the loop stands still meanwhile, so the gateway takes nothing."""

    def ask(answers):
        with closing(LaneConnection(embedded["LANES_URL"])) as connection:
            return connection.ask(replies.publish(answers))

    return ask


@contextmanager
def setting(embedded, name, value):
    """A setting of the lanes server, for a while."""
    with closing(sync_client(embedded["LANES_URL"])) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield
        finally:
            client.config_set(name, before)


def answer(work, size=MIB, **fields):
    return work, Reply(work.number, outputs=[("y", "UINT8", [size], bytes(size))], **fields)


async def ask_many(desk, count):  # noqa: F811
    """(their works, their outcomes)"""
    outcomes = [desk.ask()[1] for _ in range(count)]
    return [await desk.take() for _ in range(count)], outcomes


async def kept(desk):  # noqa: F811
    """The gateway's hash of kept replies."""
    return await desk.lanes.hgetall(kept_key(desk.gateway.lanes._session))


async def until_none_is_kept(desk):  # noqa: F811
    async with asyncio.timeout(PATIENCE):
        while await kept(desk):
            await asyncio.sleep(0.005)


async def test_large_answers_of_several_organizations_cut_off_nobody(desk, embedded, publish):  # noqa: F811
    works, outcomes = await ask_many(desk, 31)
    small = works.pop()
    floods = [msgspec.structs.replace(work, tenant=f"organization-{place // 10}") for place, work in enumerate(works)]
    with setting(embedded, "client-output-buffer-limit", "pubsub 8mb 4mb 60"):
        publish([answer(work) for work in floods])
        publish([answer(small, 9)])
        ended = [await outcome for outcome in outcomes]

    codes = [getattr(outcome, "code", "") for outcome in ended]
    assert set(codes) == {"", "capacity_exhausted"}
    assert codes[-1] == ""
    assert all(codes[first : first + 10].count("") >= 1 for first in (0, 10, 20))
    await until_none_is_kept(desk)


async def test_a_large_answer_arrives_whole_and_is_kept_no_longer(desk, publish):  # noqa: F811
    call, outcome = desk.ask()
    publish([answer(await desk.take(), 8 * MIB - 1000, compute_us=7)])

    assert (await outcome).body == b"answer"
    assert call.reply.outputs[0][3] == bytes(8 * MIB - 1000)
    assert call.reply.compute_us == 7
    await until_none_is_kept(desk)


async def test_what_one_organization_leaves_is_there_for_the_next(desk, publish):  # noqa: F811
    works, outcomes = await ask_many(desk, 12)
    publish([answer(work) for work in works[:11]])
    publish([answer(msgspec.structs.replace(works[11], tenant="another"), 6 * MIB)])

    codes = [getattr(await outcome, "code", "") for outcome in outcomes]
    assert codes == [""] * 8 + ["capacity_exhausted"] * 3 + [""]


async def test_a_reply_that_comes_twice_takes_room_once(desk, publish):  # noqa: F811
    _, outcome = desk.ask()
    work = await desk.take()
    for _ in range(40):
        publish([answer(work)])

    assert (await outcome).status == 200
    await until_none_is_kept(desk)


async def test_a_server_without_memory_refuses_that_call_alone(desk, embedded, publish):  # noqa: F811
    (large, small), outcomes = await ask_many(desk, 2)
    with setting(embedded, "maxmemory", 1):
        publish([answer(large), answer(small, 9)])

    assert [getattr(await outcome, "code", "") for outcome in outcomes] == ["capacity_exhausted", ""]
    assert not await kept(desk)


async def test_nothing_is_kept_for_a_gateway_that_is_gone(desk, publish):  # noqa: F811
    desk.ask()
    gone = msgspec.structs.replace(await desk.take(), gateway="gone")
    publish([answer(gone)])

    assert not await desk.lanes.exists(kept_key("gone"))


async def test_what_is_kept_when_the_connection_breaks_is_given_up(desk, publish):  # noqa: F811
    _, outcome = desk.ask()
    publish([answer(await desk.take())])
    desk.gateway.lanes._replies.abort()  # before it has read that there is one
    assert (await outcome).code == "unavailable"
    assert await kept(desk)
    await until_async(lambda: desk.gateway.lanes.is_connected)

    await until_none_is_kept(desk)


async def test_a_gateway_that_knows_no_kept_replies_takes_the_notice_for_a_refusal(desk, publish):  # noqa: F811
    desk.ask()
    work = await desk.take()
    heard = desk.lanes.pubsub(ignore_subscribe_messages=True)
    await heard.subscribe(replies_channel(work.gateway))
    publish([answer(work)])

    message = None
    async with asyncio.timeout(PATIENCE):
        while message is None:
            message = await heard.get_message(timeout=PATIENCE)
    await heard.aclose()
    [notice] = unpack_replies(message["data"])
    assert (notice.number, notice.code, notice.is_kept) == (work.number, "capacity_exhausted", True)


async def test_small_replies_travel_together_beside_large_ones(desk):  # noqa: F811
    works, _ = await ask_many(desk, 20)

    together = replies.publish([answer(work, 1000) for work in works])
    assert len(together) == 1
    assert together[0].count(b"PUBLISH") == 1

    mixed = replies.publish([answer(work, MIB if place == 3 else 4000) for place, work in enumerate(works)])
    assert len(mixed) == 2
    assert b"EVAL" not in mixed[0]
