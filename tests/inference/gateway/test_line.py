"""The gateway core against the real servers: from submit to close, with a worker played by the test."""

import asyncio
import gc
import threading
import time
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest
import redis.asyncio

from inference.books import accounts
from inference.books.open_call import OpenCall
from inference.books.record import unpack_record
from inference.gateway.call import Call, Rendered
from inference.gateway.frames import LONG_SECONDS
from inference.gateway.line import Gateway
from inference.gateway.running import MAX_PUSHES
from inference.holders import Holder, holder_key
from inference.lanes import (
    WITHDRAWN,
    WORKERS,
    Prediction,
    Reply,
    lane_key,
    pack_replies,
    pool_key,
    replies_channel,
    resident_key,
    unpack_work,
    worker_key,
)
from inference.routes import ModelRoute, VersionRoute
from saas.lib.errors import AppError, LimitReached
from saas.lib.prices import Price
from saas.lib.valkey import sync_client
from tenants.principal import KeyRecord, Limits, Terms
from tests.waiting import PATIENCE, until_async


class Plain:
    """An AnswerStore without encryption."""

    def is_slow(self, size):
        return False

    def is_apart(self, stored):
        return False

    def seal(self, call, packed):
        return packed

    def unseal(self, call, stored):
        return stored


class Desk:
    """A gateway, one organization with its account, and calls to one version; `work()` is the worker's side."""

    def __init__(self, gateway, lanes_url, state):
        self.gateway, self.state = gateway, state
        self.lanes = redis.asyncio.Redis.from_url(lanes_url, socket_timeout=2 * PATIENCE)
        self.organization, self.hardware = uuid4().hex, uuid4().hex
        limits = Limits(1000.0, 1000, 100)
        self.key = KeyRecord(
            public_id="x" * 12, id=uuid4().hex, organization=self.organization, slug="acme", mode="live", hash=b"",
            pepper_version=1, scopes=["predictions:write"], models=None, expires_at=None, is_active=True, limits=limits,
            organization_limits=limits, is_capped=False, data_key_id="", data_key=b"",
        )  # fmt: skip
        self.version = VersionRoute(id=uuid4().hex, number="1.0.0", digest="", state="ready", hardware=self.hardware)
        self.route = ModelRoute(
            id=uuid4().hex, name="m", owner=self.organization, owner_slug="acme", is_public=False, task="tensor"
        )

    def ask(self, **more):
        """Submit a call; the future holds what came of it."""
        outcome = asyncio.get_running_loop().create_future()
        values = {
            "key": self.key, "route": self.route, "version": self.version, "endpoint": "infer", "rows": 1, "inputs": [],
            "request_id": uuid4().hex, "timeout": PATIENCE,
            "render": lambda call, reply: Rendered(200, [], b"answer"),
            "done": lambda call, answer: outcome.set_result(answer),
        }  # fmt: skip
        call = Call(**(values | more))
        self.gateway.submit(call)
        return call, outcome

    async def take(self):
        _, frame = await self.lanes.blpop(pool_key(self.hardware), timeout=PATIENCE)
        return unpack_work(frame)

    async def reply(self, work, **values):
        await self.lanes.publish(replies_channel(work.gateway), pack_replies([Reply(number=work.number, **values)]))

    def records(self):
        entries = self.state.xrange("journal")
        found = [unpack_record(value) for _, fields in self._pairs(entries) for value in fields]
        return [record for record in found if record.tenant == self.organization]

    @staticmethod
    def _pairs(entries):
        # redis-py makes a dict of the fields, which all have the same name: ask for the raw reply instead
        return [(entry, raw[1::2]) for entry, raw in entries]

    async def until(self, condition):
        await until_async(condition)

    def open_calls(self):
        return [name for session in self.state.scan_iter("open:*") for name in self.state.hkeys(session) if len(name) == 32]

    def nano(self):
        return int(self.state.hget(f"account:{self.organization}", "nano:ever:") or 0)

    async def places(self):
        """How many the key's calls hold."""
        return Holder.unpack(await self.lanes.get(holder_key(self.key.id)), time.time()).taken

    def calls_this_month(self):
        period = datetime.now(UTC).strftime("%Y-%m")
        return int(self.state.hget(f"account:{self.organization}", f"calls:{period}:") or 0)


@pytest.fixture
async def desk(embedded):
    gateway = Gateway(state_url=embedded["STATE_URL"], lanes_url=embedded["LANES_URL"], lane_max_ms=10_000, stored=Plain())
    await gateway.start()
    state = sync_client(embedded["STATE_URL"])
    state.set_response_callback("XRANGE", lambda reply, **_: reply)
    desk = Desk(gateway, embedded["LANES_URL"], state)
    accounts.create(desk.organization)
    yield desk
    await gateway.stop(0)
    await desk.lanes.aclose()
    state.close()


async def test_an_answered_call_is_closed_with_one_record(desk):
    call, outcome = desk.ask()
    await desk.reply(await desk.take(), outputs=[], compute_us=7, queue_us=3)

    assert (await outcome).body == b"answer"
    await desk.until(lambda: len(desk.records()) == 1)
    record = desk.records()[0]
    assert (record.call, record.kind, record.compute_us, record.bytes_out) == (call.id, "usage", 7, 6)
    assert desk.calls_this_month() == 1
    assert call.limits[0][0] in ("key", "organization")


async def test_an_ended_call_is_freed_without_the_garbage_collector(desk):
    """A cycle in each call cost a third of the gateway's time."""

    def alive():
        things = gc.get_objects()
        calls = [thing for thing in things if type(thing) is Call and thing.key.organization == desk.organization]
        return calls + [thing for thing in things if type(thing) is OpenCall and thing.tenant == desk.organization]

    async def one(code="", **more):
        await desk.until(desk.gateway.books.may_answer)  # looking for garbage may have held its heartbeat up
        _, outcome = desk.ask(**more)
        await desk.reply(await desk.take(), code=code, outputs=[])
        return await outcome

    gc.collect()
    gc.disable()
    try:
        await one()
        await one(idempotency_key=uuid4().hex, fingerprint=b"f" * 32)
        await one("model_failed")
        await desk.until(lambda: not alive())
    finally:
        gc.enable()


async def test_a_failed_call_leaves_no_record_and_no_charge(desk):
    _, outcome = desk.ask()
    await desk.reply(await desk.take(), code="model_failed", message="it broke")

    error = await outcome
    assert (error.code, error.detail) == ("model_failed", "it broke")
    await desk.until(lambda: desk.calls_this_month() == 0)
    assert desk.records() == []


async def test_an_answer_that_cannot_be_rendered_costs_nothing(desk):
    def refuse(call, reply):
        raise AppError("not finite")

    _, outcome = desk.ask(render=refuse)
    await desk.reply(await desk.take())

    assert isinstance(await outcome, AppError)
    await desk.until(lambda: desk.calls_this_month() == 0)


async def test_a_passed_deadline_is_504_and_a_late_reply_changes_nothing(desk):
    _, outcome = desk.ask(timeout=0.1)
    work = await desk.take()

    assert (await outcome).code == "deadline_exceeded"
    await desk.reply(work)
    await desk.until(lambda: desk.calls_this_month() == 0)
    assert desk.records() == []


async def test_a_client_that_leaves_frees_its_place_and_its_work_leaves_the_lane(desk):
    call, _ = desk.ask()
    await desk.until(lambda: call.is_admitted)
    desk.gateway.abandon(call)

    await desk.until(lambda: desk.calls_this_month() == 0)
    deadline = time.monotonic() + PATIENCE
    while await desk.lanes.llen(pool_key(desk.hardware)) or await desk.places():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_workers_are_told_of_a_call_that_nobody_waits_for_any_more_if_it_may_run_long(desk):
    heard = desk.lanes.pubsub(ignore_subscribe_messages=True)
    await heard.subscribe(WITHDRAWN)
    prediction, long, short = (desk.ask(is_low=is_low)[0] for is_low in (True, False, False))
    await desk.until(lambda: all(call.is_admitted for call in (prediction, long, short)))
    long.pushed -= LONG_SECONDS
    short.pushed += PATIENCE

    desk.gateway.cancel(prediction)
    desk.gateway.abandon(short)
    desk.gateway.abandon(long)

    told = []
    async with asyncio.timeout(PATIENCE):
        while long.id not in told:
            message = await heard.get_message(timeout=PATIENCE)
            told += [message["data"].decode()] if message else []
    await heard.aclose()
    assert [call for call in told if call in (prediction.id, long.id, short.id)] == [prediction.id, long.id]


@pytest.mark.parametrize(
    ("is_public", "is_taken", "is_told"),
    [(False, True, True), (False, False, False), (True, True, False)],
)
async def test_of_a_call_that_was_just_taken_workers_are_told_if_it_runs_an_own_model(desk, is_public, is_taken, is_told):
    heard = desk.lanes.pubsub(ignore_subscribe_messages=True)
    await heard.subscribe(WITHDRAWN)
    desk.route.is_public, desk.route.prices = is_public, [PRICE]
    left, last = desk.ask()[0], desk.ask(is_low=True)[0]
    await desk.until(lambda: left.is_admitted and last.is_admitted)
    if is_taken:
        await desk.lanes.lpop(pool_key(desk.hardware))
    left.pushed += PATIENCE  # within its first second, however slow this machine is

    desk.gateway.abandon(left)
    await desk.gateway.lanes.ask("PING")  # what was sent before it is answered
    desk.gateway.cancel(last)

    told = []
    async with asyncio.timeout(PATIENCE):
        while last.id not in told:
            message = await heard.get_message(timeout=PATIENCE)
            told += [message["data"].decode()] if message else []
    await heard.aclose()
    assert (left.id in told) is is_told


async def test_a_quota_refuses_before_anything_runs(desk):
    accounts.set_limits(desk.organization, accounts.AccountLimits(1, {}, 1))
    desk.key.is_capped = True
    _, first = desk.ask()
    await desk.reply(await desk.take())
    await first
    _, second = desk.ask()

    error = await second
    assert (error.status, error.code, error.source) == (429, "quota_exceeded", "organization")
    assert await desk.lanes.llen(pool_key(desk.hardware)) == 0


async def test_an_idempotency_key_replays_and_is_charged_once(desk):
    key = {"idempotency_key": "k1", "fingerprint": b"f" * 32}
    _, first = desk.ask(**key)
    work = await desk.take()
    _, during = desk.ask(**key)
    _, other = desk.ask(**(key | {"fingerprint": b"g" * 32}))
    assert (await during).code == "idempotency_in_progress"
    assert (await other).code == "idempotency_key_reused"
    await desk.reply(work)
    assert (await first).body == b"answer"

    again, replayed = desk.ask(**key)

    assert (await replayed).body == b"answer"
    assert again.is_replay
    assert desk.calls_this_month() == 1
    assert len(desk.records()) == 1


async def test_a_failed_keyed_call_may_be_tried_again(desk):
    key = {"idempotency_key": "k2", "fingerprint": b"f" * 32}
    _, first = desk.ask(**key)
    await desk.reply(await desk.take(), code="model_failed")
    await first
    await desk.until(lambda: desk.calls_this_month() == 0)
    _, second = desk.ask(**key)
    await desk.reply(await desk.take())

    assert (await second).body == b"answer"


async def test_an_unknown_account_is_waited_for_and_then_refused(desk):
    desk.state.delete(f"account:{desk.organization}")
    _, outcome = desk.ask()

    error = await asyncio.wait_for(outcome, 8)
    assert error.status == 503
    assert desk.state.sismember("accounts:wanted", desk.organization)


async def test_rate_limits_are_per_key_and_say_when_to_come_back(desk):
    desk.key.limits = Limits(0.5, 1, 10)
    _, first = desk.ask()
    _, second = desk.ask()
    error = await second

    assert (error.status, error.code, error.source) == (429, "rate_limited", "key")
    assert error.retry_after >= 1
    await desk.reply(await desk.take())
    assert (await first).status == 200


async def test_many_test_keys_have_no_more_calls_than_one_and_leave_live_keys_theirs(desk):
    few = Limits(0.01, 10, 2)

    def ask(mode, shared):
        _, outcome = desk.ask(key=msgspec.structs.replace(desk.key, id=uuid4().hex, mode=mode, organization_limits=shared))
        return outcome

    outcomes = [ask("test", few) for _ in range(5)]
    live = ask("live", desk.key.organization_limits)
    refused = [await outcome for outcome in outcomes[2:]]
    for _ in range(3):
        await desk.reply(await desk.take())

    assert [(error.status, error.code, error.source) for error in refused] == [(429, "concurrency_limited", "organization")] * 3
    assert str(refused[0]) == "The limit of the organization's test keys together is 2 requests at once"
    assert [(await outcome).status for outcome in (*outcomes[:2], live)] == [200] * 3


async def test_a_call_is_pushed_again_each_time_that_a_worker_dies_but_not_for_ever(desk):
    _, outcome = desk.ask(timeout=2 * PATIENCE)
    taken = await desk.take()
    for death in range(MAX_PUSHES):
        doomed = f"doomed-{death}"
        await desk.lanes.zadd(WORKERS, {doomed: time.time() + 3})
        await desk.until(lambda doomed=doomed: doomed in desk.gateway.lanes.workers)
        await desk.lanes.zadd(WORKERS, {doomed: time.time() - 1})
        if death < MAX_PUSHES - 1:
            assert (await desk.take()).number == taken.number
    await desk.until(lambda: doomed not in desk.gateway.lanes.workers)

    assert await desk.lanes.llen(pool_key(desk.hardware)) == 0
    await desk.reply(taken)
    assert (await outcome).status == 200
    await desk.lanes.zrem(WORKERS, *[f"doomed-{death}" for death in range(MAX_PUSHES)])


async def test_stopping_lets_running_calls_end_and_refuses_new_ones(desk):
    _, running = desk.ask()
    work = await desk.take()
    stopping = asyncio.ensure_future(desk.gateway.stop(5))
    await asyncio.sleep(0)
    _, late = desk.ask()
    assert (await late).status == 503
    await desk.reply(work)

    assert (await running).status == 200
    await stopping
    assert len(desk.records()) == 1


async def test_stopping_fails_what_does_not_end_in_time_without_a_charge(desk):
    _, running = desk.ask()
    await desk.take()
    await desk.gateway.stop(0.1)

    assert (await running).status == 503
    assert desk.calls_this_month() == 0
    assert desk.records() == []


async def test_a_call_that_is_lost_while_its_answer_is_stored_gets_no_answer_and_no_charge(desk):
    sealing = threading.Event()

    class Slow(Plain):
        def is_slow(self, size):
            return True

        def seal(self, call, packed):
            sealing.wait(5)
            return packed

    desk.gateway.answers.store = Slow()
    call, outcome = desk.ask(idempotency_key="k3", fingerprint=b"f" * 32)
    await desk.reply(await desk.take())
    await desk.until(lambda: call.is_closing)
    call.open_call.on_open("lost", None)  # as Books does when a reaper took the session
    sealing.set()

    assert (await outcome).status == 503
    assert desk.records() == []


async def test_an_answer_for_which_there_is_no_room_is_refused_free_and_its_key_may_be_used_again(desk):
    class Full(Plain):
        def seal(self, call, packed):
            raise LimitReached("The organization may have 1 bytes of kept inputs and answers and has 1")

    desk.gateway.answers.store = Full()
    _, outcome = desk.ask(idempotency_key="k4", fingerprint=b"f" * 32)
    await desk.reply(await desk.take())
    refused = await outcome

    assert (refused.status, refused.code) == (409, "limit_reached")
    assert desk.records() == []
    await desk.until(lambda: desk.calls_this_month() == 0)
    desk.gateway.answers.store = Plain()
    _, outcome = desk.ask(idempotency_key="k4", fingerprint=b"f" * 32)
    await desk.reply(await desk.take())
    assert (await outcome).status == 200


class Rendering:
    """A `render` that a test holds up; a large reply is rendered beside the loop, which meanwhile goes on."""

    def __init__(self):
        self.began, self.may_end, self.thread = threading.Event(), threading.Event(), None

    def __call__(self, call, reply):
        self.thread = threading.get_ident()
        self.began.set()
        assert self.may_end.wait(10)
        return Rendered(200, [], b"large")


LARGE = [("y", "UINT8", [70_000], bytes(70_000))]


@pytest.fixture
def rendering():
    rendering = Rendering()
    yield rendering
    rendering.may_end.set()


@pytest.mark.parametrize(
    ("is_ranked", "values"),
    [
        (False, {"outputs": LARGE}),
        (True, {"outputs": [("y", "FP32", [2000], bytes(8000))]}),
        (True, {"predictions": [[Prediction("a", 1.0)]] * 2000}),
    ],
)
async def test_a_large_answer_is_rendered_beside_the_loop_and_charged_once(desk, rendering, is_ranked, values):
    call, outcome = desk.ask(render=rendering, is_ranked=is_ranked)
    await desk.reply(await desk.take(), **values)
    await desk.until(rendering.began.is_set)
    assert not call.is_ended
    rendering.may_end.set()

    assert (await outcome).body == b"large"
    assert rendering.thread != threading.get_ident()
    await desk.until(lambda: len(desk.records()) == 1)
    assert desk.calls_this_month() == 1


@pytest.mark.parametrize("end", ["deadline", "lost", "cancel", "abandon", "stop"])
async def test_a_call_that_ends_while_its_answer_is_rendered_is_told_so_once_and_costs_nothing(desk, rendering, end):
    call, outcome = desk.ask(render=rendering, timeout=1.0 if end == "deadline" else 10.0)
    await desk.reply(await desk.take(), outputs=LARGE)
    await desk.until(rendering.began.is_set)
    if end == "lost":
        call.open_call.on_open("lost", None)  # as Books does when a reaper took the session
    elif end == "cancel":
        desk.gateway.cancel(call)
    elif end == "abandon":
        desk.gateway.abandon(call)
    elif end == "stop":
        await desk.gateway.stop(0)
    await desk.until(lambda: call.is_ended)
    rendering.may_end.set()

    if end != "abandon":
        assert (await outcome).code == {"deadline": "deadline_exceeded", "cancel": "state_conflict"}.get(end, "unavailable")
    await desk.until(lambda: not desk.gateway.answers._thread._is_busy)
    await asyncio.sleep(0)  # whoever waited for the thread has been told by then
    assert desk.records() == []
    if end != "lost":  # what was opened is taken back by the reaper itself
        await desk.until(lambda: desk.calls_this_month() == 0)
    assert not desk.gateway.running.calls


async def test_an_answer_that_cannot_be_rendered_beside_the_loop_costs_nothing(desk):
    def refuse(call, reply):
        raise RuntimeError("a fault of ours")

    _, outcome = desk.ask(render=refuse)
    await desk.reply(await desk.take(), outputs=LARGE)

    assert (await outcome).code == "internal_error"
    await desk.until(lambda: desk.calls_this_month() == 0)
    assert desk.records() == []


async def test_a_large_keyed_answer_is_stored_and_replayed(desk, rendering):
    rendering.may_end.set()
    _, first = desk.ask(render=rendering, idempotency_key="large", fingerprint=b"f" * 32)
    await desk.reply(await desk.take(), outputs=LARGE)
    assert (await first).body == b"large"
    _, again = desk.ask(idempotency_key="large", fingerprint=b"f" * 32)

    assert (await again).body == b"large"
    assert desk.calls_this_month() == 1


async def test_an_answer_that_cannot_be_sealed_fails_its_call_alone(desk):
    class Broken(Plain):
        def seal(self, call, packed):
            raise ValueError("no key opens it")

    desk.gateway.answers.store = Broken()
    _, keyed = desk.ask(idempotency_key="k4", fingerprint=b"f" * 32)
    _, plain = desk.ask()
    works = [await desk.take(), await desk.take()]
    replies = [Reply(number=work.number) for work in works]
    await desk.lanes.publish(replies_channel(works[0].gateway), pack_replies(replies))

    assert (await keyed).status == 503
    assert (await plain).status == 200
    await desk.until(lambda: desk.calls_this_month() == 1)


async def test_a_full_lane_refuses_at_once_and_the_books_hear_nothing_of_it(desk):
    room = 10_000  # of calls that take a millisecond: the gateway's lane_max_ms
    await desk.lanes.rpush(pool_key(desk.hardware), *[b"x"] * room)
    _, first = desk.ask()
    error = await first
    assert (error.status, error.code, error.source) == (503, "capacity_exhausted", "platform")
    assert error.retry_after == 1

    desk.gateway.crowding.note(desk.ask()[0], "lane", 1000, asyncio.get_running_loop().time() + 60)  # it cannot pass meanwhile
    call, outcome = desk.ask()
    assert outcome.done()
    assert outcome.result().code == "capacity_exhausted"
    assert call.open_call is None
    await desk.lanes.delete(pool_key(desk.hardware))
    _, stored = desk.ask(idempotency_key="k", fingerprint=b"f")
    await desk.reply(await desk.take())
    assert (await stored).body == b"answer"
    await desk.until(lambda: desk.calls_this_month() == 1)


async def test_a_lane_holds_less_of_calls_that_are_long_to_prepare(desk):
    await desk.lanes.rpush(pool_key(desk.hardware), *[b"x"] * 10)
    error = await desk.ask(prepare_us=1e6)[1]  # 10 s of work may wait: less than ten such calls
    assert (error.status, error.code) == (503, "capacity_exhausted")

    _, outcome = desk.ask(prepare_us=0.8e6)  # but twelve of these
    while await desk.lanes.llen(pool_key(desk.hardware)) == 10:
        assert not outcome.done()
    await desk.lanes.ltrim(pool_key(desk.hardware), 10, -1)
    await desk.reply(await desk.take())
    assert (await outcome).body == b"answer"
    await desk.until(lambda: desk.calls_this_month() == 1)


async def until_lengths(desk, wanted):
    async with asyncio.timeout(PATIENCE):
        while {lane: await desk.lanes.llen(lane) for lane in wanted} != wanted:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("ms_per_row", "prepare_us"), [(40.0, 0.0), (0.01, 40_000.0)])
async def test_organizations_whose_calls_take_long_at_the_same_model_take_turns(desk, ms_per_row, prepare_us):
    desk.version.ms_per_row = ms_per_row  # one in a turn
    await desk.lanes.zadd(f"sharing:{desk.version.id}", {uuid4().hex: time.time() + 600})
    asked = [desk.ask(prepare_us=prepare_us)[1] for _ in range(3)]

    for outcome in asked:
        work = await desk.take()
        assert work.prepare_us == prepare_us  # for the worker to plan with
        assert await desk.lanes.llen(pool_key(desk.hardware)) == 0  # the others wait for their turn
        await desk.reply(work)
        assert (await outcome).body == b"answer"
    await desk.until(lambda: desk.calls_this_month() == 3)


async def test_a_slow_call_waits_in_a_lane_of_its_own_and_leaves_it_with_its_caller(desk):
    desk.version.has_slow_lanes = True
    await desk.lanes.set(resident_key(desk.version.id), "w", ex=60)
    lane, slow_lane = lane_key(desk.version.id), lane_key(desk.version.id, slow=True)

    slow, _ = desk.ask(prepare_us=51_000)
    desk.ask(prepare_us=40_000)
    await until_lengths(desk, {lane: 1, slow_lane: 1})

    assert unpack_work((await desk.lanes.lrange(slow_lane, 0, -1))[0]).is_slow
    desk.gateway.abandon(slow)
    await until_lengths(desk, {lane: 1, slow_lane: 0})


@pytest.mark.parametrize("is_public", [False, True])
async def test_a_worker_hears_whether_a_call_asks_a_model_of_the_catalogue(desk, is_public):
    desk.route.is_public, desk.route.prices = is_public, [PRICE]
    desk.ask()
    assert (await desk.take()).is_public is is_public


async def test_a_version_without_slow_lanes_has_all_its_calls_in_one(desk):
    await desk.lanes.set(resident_key(desk.version.id), "w", ex=60)
    for prepare_us in (51_000, 0):
        desk.ask(prepare_us=prepare_us)

    await until_lengths(desk, {lane_key(desk.version.id): 2})


async def test_who_waits_for_its_turn_goes_on_when_the_others_stop_calling(desk):
    desk.version.ms_per_row = 40.0
    sharing, other = f"sharing:{desk.version.id}", uuid4().hex
    await desk.lanes.zadd(sharing, {other: time.time() + 600})
    asked = [desk.ask()[1] for _ in range(3)]
    works = [await desk.take()]
    await desk.lanes.zrem(sharing, other)

    works += [await desk.take() for _ in range(2)]
    for work, outcome in zip(works, asked, strict=True):
        await desk.reply(work)
        assert (await outcome).body == b"answer"


async def test_only_so_many_wait_for_their_turn_and_a_deadline_ends_the_waiting(desk):
    desk.version.ms_per_row = 100.0  # 25 may wait
    await desk.lanes.zadd(f"sharing:{desk.version.id}", {uuid4().hex: time.time() + 600})
    _, first = desk.ask()
    work = await desk.take()
    waiting = [desk.ask(timeout=5.0)[1] for _ in range(27)]

    refused = [await outcome for outcome in waiting[25:]]
    assert {(error.status, error.code, error.source) for error in refused} == {(503, "capacity_exhausted", "organization")}
    while not waiting[0].done():  # each place that one of them leaves while it is asked for again, is wanted
        late = desk.ask(timeout=0.1)[1]
        await asyncio.sleep(0.005)
    assert {(await outcome).code for outcome in waiting[:25]} == {"deadline_exceeded"}
    await late
    await desk.reply(work)
    assert (await first).body == b"answer"
    await desk.until(lambda: desk.calls_this_month() == 1)


PRICE = Price(7, 0, "USD", 1000, 10, 3_000_000)  # per second: 3 nano a microsecond


def another_version(desk):
    return VersionRoute(id=uuid4().hex, number="1.0.0", digest="", state="ready", hardware=desk.hardware)


async def test_an_organization_has_few_slow_calls_under_way_over_all_models_of_the_catalogue_also_while_it_is_alone(desk):
    desk.route.is_public, desk.route.prices = True, [PRICE]
    slow = {"prepare_us": 60_000}
    asked = [desk.ask(**slow, version=version)[1] for version in (desk.version, another_version(desk)) for _ in range(3)]
    works = [await desk.take() for _ in range(2)]  # one for a worker's place, one that waits for it
    assert await desk.lanes.llen(pool_key(desk.hardware)) == 0

    other = msgspec.structs.replace(desk.key, id=uuid4().hex, organization=uuid4().hex)
    accounts.create(other.organization)
    _, theirs = desk.ask(**slow, key=other, version=another_version(desk))
    innocent = await desk.take()  # before the four that wait, though these came before

    assert innocent.tenant == other.organization
    await desk.reply(innocent)
    assert (await theirs).body == b"answer"
    for left in range(6, 0, -1):
        await desk.reply(works.pop(0))
        if left > 2:
            works.append(await desk.take())
    assert {(await outcome).body for outcome in asked} == {b"answer"}


async def test_own_models_share_no_slow_places(desk):
    for _ in range(3):
        desk.ask(prepare_us=60_000)

    await until_lengths(desk, {pool_key(desk.hardware): 3})


async def test_more_workers_have_more_slow_calls_under_way(desk):
    desk.route.is_public, desk.route.prices = True, [PRICE]
    names = [f"{desk.hardware}-{number}" for number in range(2)]
    for name in names:
        await desk.lanes.set(worker_key(name), msgspec.json.encode({"hardware": desk.hardware, "slots": 3}), ex=600)
    await desk.lanes.zadd(WORKERS, dict.fromkeys(names, time.time() + 600))
    await desk.until(lambda: desk.gateway.lanes.workers.keys() >= set(names))
    asked = [desk.ask(prepare_us=60_000)[1] for _ in range(8)]

    works = [await desk.take() for _ in range(5)]  # one for each of four places, one that waits
    assert await desk.lanes.llen(pool_key(desk.hardware)) == 0
    await desk.lanes.zrem(WORKERS, *names)
    for work in works:
        await desk.reply(work)
    assert {(await outcome).body for outcome in asked[:5]} == {b"answer"}


async def test_a_call_is_charged_its_most_first_and_then_exactly(desk):
    desk.route.prices = [PRICE]
    call, outcome = desk.ask(rows=4, timeout=10.0)
    work = await desk.take()
    await desk.until(lambda: call.is_open)
    assert desk.nano() == 1000 + 40 + 30_000_000

    await desk.reply(work, outputs=[], compute_us=7)

    assert (await outcome).body == b"answer"
    await desk.until(lambda: len(desk.records()) == 1)
    record = desk.records()[0]
    assert (record.price_version, record.nano, record.is_clamped) == (7, 1000 + 40 + 21, False)
    assert (call.cost_nano, desk.nano()) == (1061, 1061)


async def test_a_call_is_never_charged_more_than_when_it_opened(desk):
    desk.route.prices = [PRICE]
    call, outcome = desk.ask(timeout=10.0)
    await desk.reply(await desk.take(), outputs=[], compute_us=11_000_000)

    await outcome
    await desk.until(lambda: len(desk.records()) == 1)
    record = desk.records()[0]
    assert (record.nano, record.is_clamped, call.cost_nano) == (30_001_010, True, 30_001_010)


async def test_a_failed_call_gives_back_all_that_it_was_charged(desk):
    desk.route.prices = [PRICE]
    _, outcome = desk.ask(timeout=10.0)
    await desk.reply(await desk.take(), code="model_failed", message="no")

    assert (await outcome).code == "model_failed"
    await desk.until(lambda: desk.nano() == 0)
    assert desk.records() == []


async def test_a_call_without_a_price_is_refused_before_anything_is_written(desk):
    desk.route.is_public = True
    call, outcome = desk.ask()

    assert (await outcome).code == "price_missing"
    assert (call.open_call, call.id, desk.calls_this_month()) == (None, "", 0)


async def test_a_budget_refuses_what_can_cost_more_than_is_left(desk):
    desk.route.prices = [Price(7, 0, "USD", 1000, 0, 0)]
    desk.key.is_capped = True
    limits = accounts.AccountLimits(None, {}, 1, organization_nano=1500, credit_nano=9000)
    accounts.set_limits(desk.organization, limits)
    first, outcome = desk.ask()
    second, refused = desk.ask()
    error = await refused
    await desk.reply(await desk.take(), outputs=[], compute_us=7)

    assert (await outcome).status == 200
    assert first.left == b"500 8000 -"
    assert (error.status, error.code, error.source, error.cap["left"]) == (402, "budget_exceeded", "organization", "0.0000005")
    assert second.left is None
    await desk.until(lambda: desk.nano() == 1000)


async def test_a_call_is_told_how_many_the_plan_still_includes(desk):
    desk.key.is_capped = True
    accounts.set_limits(desk.organization, accounts.AccountLimits(None, {}, 1, included_calls=2))
    lefts = []
    for _ in range(2):
        call, outcome = desk.ask()
        await desk.reply(await desk.take(), outputs=[], compute_us=7)
        assert (await outcome).status == 200
        lefts.append(call.left)

    assert lefts == [b"- - 1", b"- - 0"]


async def test_a_suspended_organizations_calls_are_refused(desk):
    desk.key.terms = Terms(state="suspended")
    _, outcome = desk.ask()

    assert (await outcome).code == "account_suspended"
    assert desk.calls_this_month() == 0


async def test_a_keyed_answer_and_its_replay_say_what_the_call_has_cost(desk):
    desk.route.prices = [PRICE]
    _, outcome = desk.ask(idempotency_key="k", fingerprint=b"f")
    await desk.reply(await desk.take(), outputs=[], compute_us=7)
    first = await outcome
    desk.route.prices = [Price(8, 0, "USD", 5, 0, 0)]
    _, replayed = desk.ask(idempotency_key="k", fingerprint=b"f")

    assert dict(first.headers)[b"x-maas-cost"] == b"0.000001031 USD"
    assert (await replayed).headers == first.headers
