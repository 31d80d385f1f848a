"""When a session counts as dead, and what is left of its calls."""

import logging

import pytest
import redis

from inference.books import accounts
from inference.books.reaper import CALLS_PER_SCRIPT, Reaper
from inference.books.scripts import BEAT, FULL, SESSION, TAKE, open_key, reaping_key
from saas.lib.valkey import sync_client
from tests.inference.books.calls import ALICE, Asked, charged, open_entries, records
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers


class Clock:
    """Stands still but for what tests add; `slow` is added within the next poll."""

    def __init__(self) -> None:
        self.now, self.slow = 100.0, 0.0

    def __call__(self) -> float:
        now = self.now
        self.now, self.slow = self.now + self.slow, 0.0
        return now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reaper(valkey, clock):
    return Reaper(valkey, clock)


@pytest.fixture
def session(valkey):
    SESSION.run_sync(valkey, [open_key("s")], ["", "s"])
    return "s"


def watch(reaper, clock, seconds: float) -> list[tuple[str, bytes]]:
    """Poll each half second for so long; what is dead at the end."""
    dead = []
    for _ in range(int(seconds / 0.5)):
        clock.now += 0.5
        dead, _ = reaper.watch()
    return dead


def test_a_session_is_dead_after_three_seconds_with_the_same_beat(reaper, clock, session):
    reaper.watch()

    assert watch(reaper, clock, 2.5) == []
    assert watch(reaper, clock, 0.5) == [("s", b"1")]


def test_a_beat_starts_the_wait_again(reaper, clock, session, valkey):
    reaper.watch()
    watch(reaper, clock, 2.5)

    BEAT.run_sync(valkey, [open_key("s"), FULL], [60, 80])

    assert watch(reaper, clock, 3.0) == []
    assert watch(reaper, clock, 0.5) == [("s", b"2")]


def test_a_slow_poll_starts_the_wait_again(reaper, clock, session):
    reaper.watch()
    watch(reaper, clock, 2.0)
    clock.slow = 0.6

    assert watch(reaper, clock, 3.0) == []
    assert watch(reaper, clock, 0.5) == [("s", b"1")]


def test_a_reaper_that_slept_starts_its_wait_again(reaper, clock, session):
    reaper.watch()
    clock.now += 10.0

    assert reaper.watch() == ([], [])
    assert watch(reaper, clock, 2.5) == []
    assert watch(reaper, clock, 0.5) == [("s", b"1")]


def test_a_poll_that_fails_starts_the_wait_again(valkey, reaper, clock, session):
    reaper.watch()
    watch(reaper, clock, 2.5)
    state, reaper.state = reaper.state, sync_client("unix:///nowhere")
    with pytest.raises(redis.ConnectionError):
        reaper.watch()
    reaper.state = state

    assert watch(reaper, clock, 3.0) == []
    assert watch(reaper, clock, 0.5) == [("s", b"1")]


def test_a_session_that_beat_between_the_poll_and_the_taking_is_left_alone(reaper, session, valkey):
    BEAT.run_sync(valkey, [open_key("s"), FULL], [60, 80])

    assert not reaper.take("s", b"1")
    assert valkey.smembers("sessions") == {b"s"}


def test_of_two_reapers_one_takes_the_session(valkey, session, caplog):
    caplog.set_level(logging.CRITICAL)
    first, second = Reaper(valkey), Reaper(valkey)

    assert [first.take("s", b"1"), second.take("s", b"1")] == [True, False]


def test_a_session_without_its_key_is_forgotten(reaper, session, valkey):
    valkey.delete(open_key("s"))

    reaper.watch()

    assert valkey.scard("sessions") == 0


async def test_a_dead_gateway_s_calls_are_reversed_in_portions_and_its_claims_dropped(make_books, account, valkey):
    books = await make_books()
    calls = [Asked(most=5) for _ in range(CALLS_PER_SCRIPT + 40)]
    keyed, test, answered = Asked(claim=b"a", most=5), Asked(mode="test"), Asked(most=5, claim=b"b")
    for call in (*calls, keyed, test, answered):
        books.open(call.open_call)
    await until_async(lambda: all(call.opened for call in (*calls, keyed, test, answered)))
    await answered.close(books, nano=3, stored=b"x")
    books.abandon()
    reaper = Reaper(valkey)
    [session] = [name.decode() for name in valkey.smembers("sessions")]

    assert reaper.take(session, valkey.hget(open_key(session), "beat"))
    assert [reaper.undo(session) for _ in range(3)] == [CALLS_PER_SCRIPT, 42, 0]

    assert account() == charged(1, 3)
    rows = {r.call: r for r in records(valkey)}
    assert rows.pop(answered.id).kind == "usage"
    assert set(rows) == {call.id for call in (*calls, keyed, test)}
    assert {(r.kind, r.nano) for r in rows.values()} == {("reversed", 0)}
    assert all(r.closed_ms > 1_600_000_000_000 for r in rows.values())
    row = rows[keyed.id]
    assert (row.tenant, row.max_nano, row.is_clamped, row.request_id) == (ALICE, 5, False, "r")
    assert len(valkey.keys("claim:*")) == 1
    assert valkey.keys("reaping:*") == []
    assert valkey.scard("reaping") == 0


async def test_what_another_reaper_began_is_finished(make_books, account, valkey):
    books = await make_books()
    call = Asked(most=5)
    await call.open(books)
    books.abandon()
    [session] = [name.decode() for name in valkey.smembers("sessions")]
    TAKE.run_sync(valkey, [open_key(session), reaping_key(session)], [session, valkey.hget(open_key(session), "beat")])

    assert Reaper(valkey).step() == 1

    assert account() == {}


async def test_an_account_that_is_unknown_stays_so(make_books, account, valkey):
    books = await make_books()
    call, other = Asked(most=5), Asked(most=5)
    await call.open(books)
    await other.open(books)
    valkey.delete(f"account:{ALICE}")

    assert await call.close(books, nano=1) == "closed"
    books.abandon()
    [session] = [name.decode() for name in valkey.smembers("sessions")]
    reaper = Reaper(valkey)
    reaper.take(session, valkey.hget(open_key(session), "beat"))
    assert reaper.undo(session) == 1

    assert accounts.read(ALICE, state=valkey) is None
    assert len(records(valkey)) == 2


async def test_an_entry_that_cannot_be_read_is_kept_apart(make_books, account, valkey):
    books = await make_books()
    call, other = Asked(most=5), Asked(most=5)
    await call.open(books)
    await other.open(books)
    books.abandon()
    [session] = [name.decode() for name in valkey.smembers("sessions")]
    entry = valkey.hget(open_key(session), call.id)
    valkey.hset(open_key(session), call.id, entry[: -len(call.open_call.record)] + b"\xc1")
    reaper = Reaper(valkey)
    reaper.take(session, valkey.hget(open_key(session), "beat"))

    assert reaper.undo(session) == 2
    assert account() == {}
    assert [r.call for r in records(valkey)] == [other.id]
    assert valkey.xlen("journal:quarantine") == 1
    assert open_entries(valkey) == 0
