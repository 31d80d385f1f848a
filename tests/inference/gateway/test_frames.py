"""When the frame of a call is sent to the lanes server, how often, and on which connection."""

import asyncio
import time
from uuid import uuid4

import msgspec
import pytest

from inference.lanes import Tensor, lane_key, pool_key, resident_key
from tests.inference.gateway.test_line import desk, until_lengths  # noqa: F401  # a fixture
from tests.waiting import PATIENCE, until_async

SIZE = 300_000
DATA: Tensor = ("x", "UINT8", [SIZE], bytes(SIZE))
LARGE = {"inputs": [DATA], "bytes_in": SIZE}


async def asked(desk):  # noqa: F811
    """How many scripts the lanes server has run."""
    return (await desk.lanes.info("commandstats"))["cmdstat_evalsha"]["calls"]


async def received(desk):  # noqa: F811
    """Bytes that the lanes server was sent."""
    return (await desk.lanes.info("stats"))["total_net_input_bytes"]


async def received_from(desk, connection):  # noqa: F811
    client = await connection.call("CLIENT", "ID")
    (found,) = [one for one in await desk.lanes.client_list() if int(one["id"]) == client]
    return int(found["tot-net-in"])


async def until_no_places(desk):  # noqa: F811
    async with asyncio.timeout(PATIENCE):
        while await desk.places():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("bytes_in", "frames"), [(SIZE, 2), (0, 3)])
async def test_while_a_call_waits_for_its_turn_its_frame_is_not_sent(desk, bytes_in, frames):  # noqa: F811
    """A small one was sent once before it was known to wait."""
    desk.version.ms_per_row = 40.0  # one in a turn
    await desk.lanes.zadd(f"sharing:{desk.version.id}", {uuid4().hex: time.time() + 600})
    before = await received(desk)
    outcomes = [desk.ask(inputs=[DATA], bytes_in=bytes_in)[1] for _ in range(2)]
    first, enough = await desk.take(), await asked(desk) + 30
    async with asyncio.timeout(PATIENCE):
        while await asked(desk) < enough:
            await asyncio.sleep(0.005)

    await desk.reply(first)
    second = await desk.take()
    assert (frames - 0.1) * SIZE < await received(desk) - before < (frames + 0.5) * SIZE
    await desk.reply(second)
    assert [(await outcome).status for outcome in outcomes] == [200, 200]
    assert second.number == first.number + 1


async def test_the_frame_of_a_large_call_that_is_refused_is_never_sent(desk):  # noqa: F811
    desk.key = msgspec.structs.replace(desk.key, limits=msgspec.structs.replace(desk.key.limits, concurrency=1))
    before = await received(desk)
    asked = [desk.ask(**LARGE)[1] for _ in range(9)]

    assert {(await outcome).code for outcome in asked[1:]} == {"concurrency_limited"}
    await desk.reply(await desk.take())
    assert (await asked[0]).status == 200
    assert await received(desk) - before < 1.5 * SIZE


async def test_a_large_call_goes_to_the_lane_of_a_worker_that_has_its_version(desk):  # noqa: F811
    await desk.lanes.set(resident_key(desk.version.id), "w", ex=60)
    desk.ask(**LARGE)

    await until_lengths(desk, {lane_key(desk.version.id): 1, pool_key(desk.hardware): 0})


async def test_large_frames_travel_on_a_connection_of_their_own_into_a_lane_and_out_of_it(desk):  # noqa: F811
    small, large = desk.gateway.lanes._commands, desk.gateway.lanes._large
    before = await received_from(desk, small), await received_from(desk, large)
    call, _ = desk.ask(**LARGE)
    await until_lengths(desk, {pool_key(desk.hardware): 1})
    desk.gateway.abandon(call)
    await until_lengths(desk, {pool_key(desk.hardware): 0})

    assert await received_from(desk, small) - before[0] < SIZE / 10
    assert await received_from(desk, large) - before[1] > 2 * SIZE


async def test_a_large_call_that_ends_before_it_is_admitted_is_not_pushed_and_frees_its_places(desk):  # noqa: F811
    call, _ = desk.ask(**LARGE)
    desk.gateway.abandon(call)
    _, outcome = desk.ask()

    await desk.reply(await desk.take())
    assert (await outcome).status == 200
    await until_no_places(desk)
    assert await desk.lanes.llen(pool_key(desk.hardware)) == 0


async def test_a_large_call_that_no_lane_takes_ends_at_once_and_costs_nothing(desk):  # noqa: F811
    large = desk.gateway.lanes._large
    name = uuid4().hex
    await large.call("ACL", "SETUSER", name, "on", "nopass", "~*", "&*", "+@all", "-rpush")
    await large.call("AUTH", name, "any")
    _, outcome = desk.ask(**LARGE)

    assert ((await outcome).status, (await outcome).code) == (503, "capacity_exhausted")
    await until_no_places(desk)
    await until_async(lambda: not desk.open_calls())
    assert desk.calls_this_month() == 0
    await desk.lanes.acl_deluser(name)


async def test_losing_the_connection_of_large_frames_loses_all_and_they_come_back(desk):  # noqa: F811
    _, lost = desk.ask()
    await desk.take()
    client = await desk.gateway.lanes._large.call("CLIENT", "ID")
    await desk.lanes.client_kill_filter(_id=client)

    assert (await lost).code == "unavailable"
    await until_async(lambda: desk.gateway.lanes.is_connected)
    _, outcome = desk.ask(**LARGE)
    await desk.reply(await desk.take())
    assert (await outcome).status == 200
