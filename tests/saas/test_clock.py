"""The movable clock. Whoever needs it moved has a Valkey of its own: the tests' shared one stays on real time."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from inference.books.client import Books
from inference.books.reaper import Reaper
from inference.books.record import unpack_record
from inference.books.scripts import JOURNAL
from saas.config import ROOT
from saas.lib import clock
from tests.inference.books.calls import ALICE, Asked, read_journal
from tests.inference.books.conftest import Server
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers
MONTH = timedelta(days=31)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def movable(server, monkeypatch):
    """A process whose state server is `server`, and which may move its clock; that server's client."""
    from django.conf import settings

    monkeypatch.setattr(settings, "CONFIG", settings.CONFIG.model_copy(update={"clock_movable": True, "state_url": server.url}))
    monkeypatch.setattr(clock, "_seen", clock._Seen())
    clock._client.cache_clear()
    yield clock._client()
    clock._client().close()
    clock._client.cache_clear()


def real() -> datetime:
    return datetime.now(UTC)


def ms_of(stream_id: str) -> int:
    return int(stream_id.partition("-")[0])


def test_it_is_real_time_until_it_is_moved(movable):
    before = real()

    assert before - timedelta(milliseconds=1) <= clock.now() <= real()
    assert clock.offset_ms() == 0


def test_it_goes_forward_and_never_back(movable):
    there = real() + MONTH
    clock.advance(there)
    assert clock.now() >= there - timedelta(milliseconds=1)

    clock.advance(real() + timedelta(days=1))
    clock.advance(real() - MONTH)

    assert clock.now() >= there - timedelta(milliseconds=1)


def test_it_goes_no_further_than_the_ledger_can(movable):
    with pytest.raises(clock.ClockFixed, match="366 days"):
        clock.advance(real() + timedelta(days=367))


def test_where_it_is_fixed_nobody_moves_it_and_a_moved_server_is_refused(movable, monkeypatch):
    from django.conf import settings

    clock.check_unmoved()
    clock.advance(real() + MONTH)
    clock.check_unmoved()
    monkeypatch.setattr(settings, "CONFIG", settings.CONFIG.model_copy(update={"clock_movable": False}))

    assert clock.offset_ms() == 0
    with pytest.raises(clock.ClockFixed):
        clock.advance(real() + MONTH)
    with pytest.raises(clock.ClockFixed, match="put forward"):
        clock.check_unmoved()


def test_real_keys_of_stripe_refuse_it():
    environment = {"PATH": os.environ["PATH"], "DEBUG": "1", "CLOCK_MOVABLE": "1", "STRIPE_SECRET_KEY": "sk_test_hidden"}
    command = [sys.executable, "-c", "import saas.settings"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "CLOCK_MOVABLE" in done.stderr
    assert "hidden" not in done.stderr


async def test_gateways_and_the_journal_follow_it(movable, server):
    movable.hset(f"account:{ALICE}", mapping={"limits_version": 0})
    books = Books(server.url)
    await books.start()
    before = Asked(most=5)
    assert await before.open(books) == "open"

    clock.advance(real() + MONTH)
    await until_async(lambda: books.now_ms() > clock.now_ms() - 60_000)
    assert await before.close(books) == "closed"
    await books.stop()

    [(last, [packed])] = read_journal(movable)
    assert abs(ms_of(last) - clock.now_ms()) < 60_000
    assert abs(unpack_record(packed).closed_ms - clock.now_ms()) < 60_000


def test_a_gateway_believes_a_slow_reply_when_the_clock_was_set_and_else_only_better_ones():
    moment = 100.0
    books = Books("unix:///nowhere", clock=lambda: moment)
    books._acknowledge_beat(99.9998, 1_000_000, 0)  # 0.1 ms of doubt
    known = books.now_ms()

    books._acknowledge_beat(99.9, 999_999, 970_000)  # 50 ms of doubt, 20 ms away: it may be the same time
    assert books.now_ms() == known

    books._acknowledge_beat(99.9, 1_000_001, 0)
    assert books.now_ms() == 1_000_001_050


async def test_a_reaper_closes_by_it_and_ids_never_go_back(movable, server):
    movable.hset(f"account:{ALICE}", mapping={"limits_version": 0})
    books = Books(server.url)
    await books.start()
    await Asked(most=5).open(books)
    clock.advance(real() + MONTH)
    ahead = clock.now_ms() + 86_400_000
    movable.execute_command("XADD", JOURNAL, f"{ahead}-7", "m", "")  # as if the server's own clock had been a day ahead
    books.abandon()
    reaper = Reaper(server.url)
    [session] = movable.smembers("sessions")
    await until_async(lambda: reaper.take(session.decode(), movable.hget(b"open:" + session, "beat")))
    assert reaper.undo(session.decode()) == 1

    [_, (last, [packed])] = read_journal(movable)
    assert last == f"{ahead}-8"
    record = unpack_record(packed)
    assert record.kind == "reversed"
    assert abs(record.closed_ms - clock.now_ms()) < 60_000
