"""Sums of old months go, and nothing that comes late makes them anew."""

from datetime import UTC, datetime

import pytest
import redis

from inference.books import accounts
from inference.books.accounts import ORGANIZATION, AccountLimits
from inference.books.pruning import Pruner, earlier_clock, kept_from
from inference.books.reaper import Reaper
from saas.lib.valkey import sync_client
from tests.inference.books.calls import ALICE, KEY, PERIOD, Asked, charged, open_entries, read_journal
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers

LATER = datetime(2027, 1, 1, tzinfo=UTC)  # PERIOD is 2026-11
NONE = accounts.NO_LIMITS


def prune(valkey, now=LATER):
    to_its_end(Pruner(valkey, now=lambda: now))


def to_its_end(pruner):
    while pruner.step():
        pass


def only_ever(sums):
    return {field: value for field, value in sums.items() if ":ever:" in field}


@pytest.mark.parametrize(
    ("now", "oldest"),
    [((2026, 11, 1), "2026-10"), ((2026, 11, 30), "2026-10"), ((2027, 1, 31), "2026-12"), ((2024, 3, 30), "2024-02")],
)
def test_this_month_and_the_one_before_are_kept(now, oldest):
    assert kept_from(datetime(*now, tzinfo=UTC)) == oldest


def test_months_before_go_and_the_rest_stays(account, valkey):
    sums = {
        (scope, period): (2, 7)
        for scope in (ORGANIZATION, KEY)
        for period in ("2025-01", "2026-10", "2026-11", "2026-12", "ever")
    }
    accounts.install(ALICE, sums, AccountLimits(9, {KEY: 3}, 4), "0-0", state=valkey)

    prune(valkey, datetime(2026, 12, 24, tzinfo=UTC))

    kept = {(scope, period): values for (scope, period), values in sums.items() if period >= "2026-11"}
    assert accounts.read(ALICE, state=valkey) == accounts.Account(kept, AccountLimits(9, {KEY: 3}, 4))


async def test_a_call_that_is_closed_late_is_counted_ever_and_in_no_month(books, account, valkey):
    answered, failed = Asked(most=10), Asked(most=10)
    await answered.open(books)
    await failed.open(books)
    before = charged(2, 20)
    assert account() == before

    prune(valkey)
    assert account() == only_ever(before)
    assert await answered.close(books, nano=4) == "closed"
    assert await failed.undo(books) == "closed"

    assert account() == only_ever(charged(1, 4))
    assert accounts.compare(ALICE, {}, "0-0", state=valkey) == {}


async def test_a_call_that_is_reaped_late_is_taken_back_ever_and_in_no_month(make_books, account, valkey):
    books = await make_books()
    await Asked(most=10).open(books)
    prune(valkey)
    books.abandon()
    reaper, (session,) = Reaper(valkey), valkey.smembers("sessions")
    await until_async(lambda: reaper.take(session.decode(), valkey.hget(b"open:" + session, "beat")))

    assert reaper.undo(session.decode()) == 1

    assert account() == {}
    assert {field for field in valkey.hkeys(f"account:{ALICE}") if b"2026" in field} == set()


async def test_between_the_decision_and_the_removal_nothing_changes_an_old_month(books, account, valkey):
    call = Asked(most=10)
    await call.open(books)
    pruner = Pruner(valkey, now=lambda: LATER)
    assert pruner.step()  # decided, nothing removed

    await call.close(books, nano=4)

    assert account() == charged(1, 10) | only_ever(charged(1, 4))
    assert accounts.compare(ALICE, {}, "0-0", state=valkey) == {}
    to_its_end(pruner)
    assert account() == only_ever(charged(1, 4))


async def test_a_call_that_names_an_old_month_is_refused_and_asks_for_no_rebuild(books, account, valkey):
    prune(valkey)

    assert await Asked(most=10).open(books) == "unknown"

    assert account() == {}
    assert accounts.wanted(state=valkey) == []
    assert open_entries(valkey) == 0
    assert await Asked(most=10, period="2026-12").open(books) == "open"


async def test_a_rebuild_leaves_old_months_out_of_ledger_journal_and_open_calls(books, account, valkey):
    journaled, waiting = Asked(most=10), Asked(most=10)
    await journaled.open(books)
    await waiting.open(books)
    await journaled.close(books, nano=3)
    prune(valkey)
    ledger = {(scope, period): (5, 50) for scope in (ORGANIZATION, KEY) for period in ("2026-10", PERIOD, "ever")}
    ledger |= {(ORGANIZATION, "2026-12"): (1, 1)}

    assert accounts.install(ALICE, ledger, NONE, "0-0", state=valkey)

    assert account() == only_ever(charged(7, 63)) | {"calls:2026-12:": 1, "nano:2026-12:": 1}
    assert accounts.compare(ALICE, ledger, "0-0", state=valkey) == {}
    await waiting.close(books, nano=2)
    assert account() == only_ever(charged(7, 55)) | {"calls:2026-12:": 1, "nano:2026-12:": 1}
    assert len(read_journal(valkey)) == 2
    assert accounts.compare(ALICE, ledger, "0-0", state=valkey) == {}


async def test_a_comparison_still_sees_what_differs_in_months_that_are_kept(books, account, valkey):
    prune(valkey, datetime(2026, 12, 1, tzinfo=UTC))
    valkey.hincrby(f"account:{ALICE}", f"nano:{PERIOD}:", 1)
    valkey.hincrby(f"account:{ALICE}", "nano:2026-10:", 1)

    assert accounts.compare(ALICE, {}, "0-0", state=valkey) == {f"nano:{PERIOD}:": (1, 0)}


def test_what_was_decided_is_never_taken_back(account, valkey):
    prune(valkey, LATER)
    prune(valkey, datetime(2026, 1, 1, tzinfo=UTC))

    assert valkey.get("accounts:kept_from") == b"2026-12"


def test_a_clock_that_runs_ahead_alone_decides_nothing(valkey):
    seconds, _ = valkey.time()
    here = datetime.fromtimestamp(seconds, UTC)

    assert earlier_clock(valkey, here.replace(year=here.year + 5, day=1)) < here.replace(year=here.year + 1, day=1)
    assert earlier_clock(valkey, here.replace(year=here.year - 5, day=1)) == here.replace(year=here.year - 5, day=1)


def test_each_step_is_small_however_large_an_account_is(account, valkey):
    fields = {f"calls:2026-01:{key:032x}": 1 for key in range(20_000)}
    valkey.hset(f"account:{ALICE}", mapping=fields)
    pruner, left, most = Pruner(valkey, now=lambda: LATER), len(fields), 0
    while pruner.step():
        now_left = valkey.hlen(f"account:{ALICE}") - 1
        left, most = now_left, max(most, left - now_left)

    assert left == 0
    assert most < 2_000


def test_what_is_no_account_or_of_another_kind_is_left_alone(valkey):
    valkey.set(f"account:{ALICE}", "?")
    valkey.hset("other", "calls:2026-01:", 1)

    prune(valkey)

    assert (valkey.get(f"account:{ALICE}"), valkey.hlen("other")) == (b"?", 1)


def test_after_a_failure_the_walk_begins_anew(account, valkey, server):
    valkey.hset(f"account:{ALICE}", "calls:2026-01:", 1)
    pruner = Pruner(client := sync_client(server.url), now=lambda: LATER)
    assert pruner.step()
    valkey.execute_command("ACL", "SETUSER", "default", "-hscan")
    try:
        with pytest.raises(redis.RedisError):
            to_its_end(pruner)
    finally:
        valkey.execute_command("ACL", "SETUSER", "default", "+@all")

    to_its_end(pruner)

    assert account() == {}
    client.close()
