"""One call through the books: what is charged, what is written, and what its gateway is told."""

import asyncio
import time

import msgspec
import pytest

from inference.books import accounts
from inference.books.batch import STORED_TENANT_MAX_BYTES, share
from inference.books.client import CALLS_PER_SCRIPT, STORED_MAX_BYTES
from inference.books.record import UNENDED, UsageRecord, pack_ended, pack_opened, pack_record
from inference.books.scripts import FULL, TRIM
from tests.inference.books.calls import ALICE, CHARLIE, KEY, OTHER_KEY, PERIOD, Asked, charged, open_entries, records
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers


async def test_an_open_call_is_charged_its_maximum_and_a_close_makes_it_exact(books, account, valkey):
    call = Asked(most=1000)

    assert await call.open(books) == "open"
    assert account() == charged(1, 1000)
    assert open_entries(valkey) == 1
    assert await call.close(books, nano=300) == "closed"
    assert account() == charged(1, 300)
    assert open_entries(valkey) == 0
    assert [(r.call, r.nano, r.is_clamped) for r in records(valkey)] == [(call.id, 300, False)]


async def test_a_call_that_fails_leaves_no_charge_and_no_record(books, account, valkey):
    call = Asked(most=1000)

    await call.open(books)

    assert await call.undo(books) == "closed"
    assert account() == {}
    assert records(valkey) == []
    assert open_entries(valkey) == 0


async def test_a_charge_above_the_maximum_is_clamped_and_marked(books, account, valkey):
    call = Asked(most=1000)

    await call.open(books)
    await call.close(books, nano=5000)

    assert account() == charged(1, 1000)
    assert [(r.nano, r.is_clamped) for r in records(valkey)] == [(1000, True)]


async def test_sums_stay_exact_where_lua_would_print_an_exponent(books, account, valkey):
    call = Asked(most=9 * 10**15)

    await call.open(books)
    assert account()["nano:ever:"] == 9 * 10**15
    await call.close(books, nano=9 * 10**15 - 1)

    assert account() == charged(1, 9 * 10**15 - 1)


async def test_a_call_of_a_session_raises_the_organization_s_sums_only(books, account):
    call = Asked(key="", most=7)

    await call.open(books)

    assert account() == {f"calls:{PERIOD}:": 1, "calls:ever:": 1, f"nano:{PERIOD}:": 7, "nano:ever:": 7}


async def test_a_call_that_ends_before_its_open_was_sent_leaves_no_trace(books, account, valkey):
    call = Asked(most=5)

    books.open(call.open_call)
    books.undo(call.open_call, call.on_close)
    await call.hear()

    assert (call.opened, call.closed) == ([], ["closed"])
    assert open_entries(valkey) == 0
    assert account() == {}


async def test_a_call_that_fails_while_its_open_is_under_way_is_closed_by_a_later_script(books, account, valkey):
    call = Asked(most=5)

    books.open(call.open_call)
    await asyncio.sleep(0)  # the script is sent
    books.undo(call.open_call, call.on_close)
    await call.hear()

    assert (call.opened, call.closed) == ([], ["closed"])
    assert open_entries(valkey) == 0
    assert account() == {}
    assert records(valkey) == []


async def test_closing_twice_writes_once(books, account, valkey):
    call = Asked(most=5)

    await call.open(books)
    await call.close(books)

    assert await call.close(books) == "gone"
    assert await call.undo(books) == "gone"
    assert account() == charged(1, 5)
    assert len(records(valkey)) == 1


async def test_many_calls_travel_together_but_never_more_than_a_script_takes(books, account, valkey):
    calls = [Asked(most=1) for _ in range(3 * CALLS_PER_SCRIPT + 10)]
    before = valkey.info("commandstats")["cmdstat_evalsha"]["calls"]

    for call in calls:
        books.open(call.open_call)
    await until_async(lambda: all(call.opened for call in calls))
    scripts = valkey.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    for call in calls:
        books.close(call.open_call, call.record)
    await until_async(lambda: open_entries(valkey) == 0)

    assert 4 <= scripts <= 6  # and a heartbeat or two
    assert all(call.opened == ["open"] for call in calls)
    assert account() == charged(len(calls), len(calls))
    assert {r.call for r in records(valkey)} == {call.id for call in calls}
    assert valkey.xlen("journal") >= 4


async def test_a_close_that_nobody_waits_for_is_sent_by_itself(books, account, valkey):
    call = Asked()

    await call.open(books)
    books.close(call.open_call, call.record)

    await until_async(lambda: valkey.xlen("journal") == 1)


async def test_the_entry_names_the_period_even_if_the_month_ends_in_between(books, account, valkey):
    call = Asked(most=10, period="2026-10")

    await call.open(books)
    await call.close(books, nano=4)

    assert account()["nano:2026-10:"] == 4
    assert f"nano:{PERIOD}:" not in account()


async def test_test_calls_are_recorded_but_raise_no_sum_and_meet_no_quota(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(0, {}, 1), state=valkey)
    call = Asked(most=10, mode="test")

    assert await call.open(books) == "open"
    assert await call.close(books) == "closed"
    assert account() == {}
    assert [r.mode for r in records(valkey)] == ["test"]


async def test_an_unknown_account_refuses_and_is_wanted(books, account, valkey):
    call = Asked(tenant=CHARLIE)

    assert await call.open(books) == "unknown"
    assert accounts.wanted(state=valkey) == [CHARLIE]
    assert open_entries(valkey) == 0


@pytest.mark.parametrize("field", ["calls:2026-11:", "limit:calls:month:"])
async def test_an_account_that_holds_no_numbers_is_unknown_and_spoils_no_other_call(books, account, valkey, field):
    accounts.create(CHARLIE, state=valkey)
    accounts.set_limits(CHARLIE, accounts.AccountLimits(10, {}, 1), state=valkey)
    valkey.hset(f"account:{CHARLIE}", field, "many")
    spoiled, sound = Asked(tenant=CHARLIE), Asked()

    books.open(spoiled.open_call)
    assert await sound.open(books) == "open"

    assert spoiled.opened == ["unknown"]
    assert accounts.wanted(state=valkey) == [CHARLIE]


async def test_the_organization_s_quota_holds_to_the_call(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(3, {}, 1), state=valkey)
    calls = [Asked() for _ in range(5)]

    for call in calls:
        books.open(call.open_call)
    await until_async(lambda: all(call.opened for call in calls))

    assert [call.opened[0] for call in calls] == ["open"] * 3 + ["quota:organization"] * 2
    await calls[0].undo(books)
    assert await Asked().open(books) == "open"
    assert await Asked().open(books) == "quota:organization"


async def test_a_key_s_quota_binds_that_key_only(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(10, {KEY: 1}, 1), state=valkey)

    assert await Asked().open(books) == "open"
    assert await Asked().open(books) == "quota:key"
    assert await Asked(key=OTHER_KEY).open(books) == "open"
    assert await Asked(period="2026-12").open(books) == "open"


async def test_a_failed_call_makes_room_in_the_very_script_that_closes_it(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(1, {}, 1), state=valkey)
    first, second = Asked(), Asked()

    await first.open(books)
    books.undo(first.open_call)

    assert await second.open(books) == "open"


@pytest.mark.parametrize(
    ("field", "verdict"),
    [
        ("limit:nano:month:", "budget:organization"),
        (f"limit:nano:month:{KEY}", "budget:key"),
        ("limit:nano:ever:", "credit:organization"),
        (f"limit:nano:ever:{KEY}", "credit:key"),
    ],
)
async def test_no_open_makes_an_amount_pass_its_limit(books, account, valkey, field, verdict):
    valkey.hset(f"account:{ALICE}", field, 2500)

    assert await Asked(most=1000).open(books) == "open"
    second = Asked(most=1000)
    assert await second.open(books) == "open"
    assert await Asked(most=1000).open(books) == verdict
    assert await Asked(most=500).open(books) == "open"
    assert await second.close(books, nano=200) == "closed"
    assert await Asked(most=800).open(books) == "open"
    assert await Asked(most=1).open(books) == verdict
    assert await Asked(most=0).open(books) == "open"


async def test_the_calls_that_a_plan_includes_are_a_limit_of_their_own(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(5, {}, 1, included_calls=2), state=valkey)

    first = Asked()
    assert [await call.open(books) for call in (first, Asked(), Asked())] == ["open", "open", "included:organization"]
    await first.undo(books)
    assert await Asked(key="").open(books) == "open"


async def test_a_refusal_says_the_limit_and_what_is_left(books, account, valkey):
    limits = accounts.AccountLimits(None, {KEY: 3}, 1, organization_nano=2500, credit_nano=9000)
    accounts.set_limits(ALICE, limits, state=valkey)

    costly, cheap = [Asked(most=1000) for _ in range(4)], [Asked() for _ in range(2)]
    for call in (*costly, *cheap):
        books.open(call.open_call)
    for call in (*costly, *cheap):
        await call.hear()

    assert [call.opened[-1] for call in costly] == ["open", "open", "budget:organization", "budget:organization"]
    assert [call.replayed for call in costly] == [b"500 7000 -", b"500 7000 -", b"2500 500", b"2500 500"]
    assert [(call.opened[-1], call.replayed) for call in cheap] == [("open", b"500 7000 -"), ("quota:key", b"3 0")]


async def test_what_is_left_is_told_below_limits_on_money_and_on_what_is_included_only(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(9, {}, 1), state=valkey)
    plain, included = Asked(most=10), Asked(most=10)
    await plain.open(books)
    accounts.set_limits(ALICE, accounts.AccountLimits(9, {}, 2, included_calls=9), state=valkey)
    await included.open(books)
    accounts.set_limits(ALICE, accounts.AccountLimits(9, {}, 3, organization_nano=100, key_nano={KEY: 50}), state=valkey)
    budgeted, test = Asked(most=10), Asked(most=10, mode="test")
    await budgeted.open(books)
    await test.open(books)

    assert (plain.replayed, included.replayed) == (None, b"- - 7")
    assert (budgeted.replayed, test.replayed) == (b"20 - -", None)


async def test_the_quota_holds_when_64_clients_race_through_several_gateways(make_books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(100, {KEY: 40}, 1), state=valkey)
    gateways = [await make_books() for _ in range(4)]
    opened = {KEY: 0, OTHER_KEY: 0}

    async def client(number: int) -> None:
        key, books = (KEY, OTHER_KEY)[number % 2], gateways[number % 4]
        for turn in range(6):
            call = Asked(key=key)
            if await call.open(books) == "open":
                opened[key] += 1
                if turn % 3 == 0:
                    await call.undo(books)
                    opened[key] -= 1
            assert account().get(f"calls:{PERIOD}:", 0) <= 100
            assert account().get(f"calls:{PERIOD}:{KEY}", 0) <= 40

    await asyncio.gather(*(client(number) for number in range(64)))
    assert account()[f"calls:{PERIOD}:"] == sum(opened.values())
    assert account()[f"calls:{PERIOD}:{KEY}"] == opened[KEY]

    while await Asked(key=OTHER_KEY).open(gateways[0]) == "open":
        opened[OTHER_KEY] += 1
    assert sum(opened.values()) == 100


async def test_a_record_that_the_checks_refuse_is_undone_and_kept_apart(books, account, valkey):
    call, other = Asked(most=5), Asked(most=5)
    await call.open(books)
    await other.open(books)
    call.record.nano = call.open_call.max_nano = 6

    books.close(other.open_call, other.record, None, other.on_close)
    assert await call.close(books) == "bad"

    assert other.closed == ["closed"]
    assert account() == charged(1, 5)
    assert [r.call for r in records(valkey)] == [other.id]
    [(_, [_, refused, _, reason, _, _])] = valkey.xrange("journal:quarantine")
    assert refused.decode() == call.id
    assert b"not within the maximum" in reason


async def test_an_unreadable_entry_is_kept_apart_and_stops_nobody(books, account, valkey):
    call, other = Asked(), Asked()
    await call.open(books)
    await other.open(books)
    valkey.hset(valkey.keys("open:*")[0], call.id, b"\xc1 not msgpack")

    books.close(other.open_call, other.record, None, other.on_close)
    assert await call.close(books) == "bad"

    assert other.closed == ["closed"]
    assert open_entries(valkey) == 0
    assert valkey.xlen("journal:quarantine") == 1


async def fill(valkey):
    """Until the next heartbeat has seen it, and every ordinary write is refused."""
    valkey.config_set("maxmemory", valkey.info("memory")["used_memory"])
    await until_async(lambda: valkey.exists(FULL))


async def test_above_the_memory_limit_nothing_opens_but_everything_closes(books, account, valkey):
    call, refused = Asked(), Asked()
    await call.open(books)
    await fill(valkey)

    assert await refused.open(books) == "full"
    await until_async(lambda: books.is_full)
    assert await call.close(books) == "closed"
    await until_async(lambda: books.may_answer())
    assert len(records(valkey)) == 1
    valkey.config_set("maxmemory", "200mb")
    await until_async(lambda: not valkey.exists(FULL) and not books.is_full)
    assert await Asked().open(books) == "open"


async def test_claims_leave_memory_to_the_calls_without(books, account, valkey):
    valkey.config_set("maxmemory", int(valkey.info("memory")["used_memory"] / 0.7))
    await until_async(lambda: valkey.get(FULL) == b"claims")

    assert await Asked(claim=b"a").open(books) == "full"
    assert await Asked().open(books) == "open"
    assert not books.is_full


async def test_the_share_of_each_tenant_shrinks_as_claims_fill_the_memory(books, account, valkey):
    accounts.create(CHARLIE, state=valkey)
    await store(books, b"a")
    assert books.room == -1

    valkey.config_set("maxmemory", int(valkey.info("memory")["used_memory"] / 0.5))
    await until_async(lambda: books.room > 0)
    valkey.hset(STORE, "total", share(books.room) + 10_000)

    assert await Asked(claim=b"b").open(books) == "quota:stored"
    assert await Asked(claim=b"c", tenant=CHARLIE).open(books) == "open"


def test_however_many_fill_their_shares_there_is_one_for_the_next():
    room, shares = 1200 << 20, []
    for _ in range(100):
        shares.append(share(room))
        room -= shares[-1]

    assert shares[0] == STORED_TENANT_MAX_BYTES
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] <= room // 7


async def test_the_clock_follows_the_state_server(books):
    books._offset_ms += 5000  # what was believed before a better sample

    books._offset_error_ms = float("inf")
    await until_async(lambda: abs(books.now_ms() - time.time() * 1000) < 500)


async def test_the_places_in_a_record_that_the_scripts_know_are_right():
    source = TRIM.source.decode()
    line = next(line for line in source.splitlines() if line.startswith("local RECORD"))
    for name in ("tenant", "key", "mode", "kind", "period", "closed_ms", "nano"):
        assert f"{name} = {UsageRecord.__struct_fields__.index(name) + 1}" in line
    assert msgspec.msgpack.decode(pack_record(Asked().record))[1] == ALICE


def test_both_parts_of_a_record_are_the_whole_as_the_scripts_put_it_together():
    whole = msgspec.structs.replace(
        Asked(most=7).record, closed_ms=1_795_000_000_123, nano=5, is_clamped=True, bytes_in=70_000, bytes_out=300, queue_us=12,
        compute_us=2**33, digests="a:b:c",
    )  # fmt: skip
    begun = msgspec.structs.replace(
        whole, closed_ms=0, nano=0, is_clamped=False, bytes_in=0, bytes_out=0, queue_us=0, compute_us=0, digests=""
    )

    assert pack_opened(begun) + pack_ended(whole, pack_opened(begun)) == pack_record(whole)
    assert pack_opened(begun) + UNENDED == pack_record(begun)
    lua = "".join(f"\\{byte}" for byte in UNENDED)
    assert f"local UNENDED = '{lua}'" in TRIM.source.decode()
    with pytest.raises(ValueError, match="no end yet"):
        pack_opened(whole)
    with pytest.raises(ValueError, match="not that of the open call"):
        pack_ended(Asked().record, pack_opened(begun))


# Idempotency-Key


async def test_a_claim_under_way_refuses_a_second_call(books, account):
    first, second, other_body = (Asked(claim=b"a", fingerprint=body) for body in (b"x", b"x", b"y"))

    assert await first.open(books) == "open"
    assert await second.open(books) == "in_progress"
    assert await other_body.open(books) == "reused"
    assert account() == charged(1, 0)


async def test_of_two_in_one_script_one_gets_the_claim(books, account):
    calls = [Asked(claim=b"a", most=3) for _ in range(3)]

    for call in calls:
        books.open(call.open_call)
    await until_async(lambda: all(call.opened for call in calls))

    assert [call.opened[0] for call in calls] == ["open", "in_progress", "in_progress"]
    assert account() == charged(1, 3)


async def test_a_stored_answer_is_replayed_and_charged_once(books, account, valkey):
    first, again, other_body = Asked(claim=b"a", most=3), Asked(claim=b"a", most=3), Asked(claim=b"a", fingerprint=b"z")
    await first.open(books)

    assert await first.close(books, stored=b"\x00sealed\xff") == "closed"
    assert await again.open(books) == "replay"
    assert again.replayed == b"\x00sealed\xff"
    assert await other_body.open(books) == "reused"
    assert account() == charged(1, 3)
    assert len(records(valkey)) == 1


async def test_a_replay_is_given_although_quota_and_memory_are_used_up(books, account, valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(1, {}, 1), state=valkey)
    first, again = Asked(claim=b"a"), Asked(claim=b"a")
    await first.open(books)
    await first.close(books, stored=b"answer")
    await fill(valkey)

    assert await again.open(books) == "replay"


async def test_an_answer_kept_elsewhere_is_replayed_as_nothing(books, account):
    first, again = Asked(claim=b"a"), Asked(claim=b"a")
    await first.open(books)
    await first.close(books, stored=None)

    assert await again.open(books) == "replay"
    assert again.replayed == b""


async def test_a_failed_call_gives_its_claim_back(books, account):
    first, again = Asked(claim=b"a"), Asked(claim=b"a")
    await first.open(books)

    books.undo(first.open_call)  # travels with the retry, in one script
    assert await again.open(books) == "open"


async def test_outcomes_are_kept_as_long_as_promised_and_claims_under_way_for_ever(books, account, valkey):
    call = Asked(claim=b"a", keep=(3600, 60))

    await call.open(books)
    [claim] = valkey.keys("claim:*")
    assert valkey.ttl(claim) == -1
    await call.close(books, stored=b"answer")

    assert 3590 <= valkey.ttl(claim) <= 3600


async def test_a_too_large_answer_is_refused_before_it_is_sent(books, account):
    call = Asked(claim=b"a")
    await call.open(books)

    with pytest.raises(ValueError, match="at most"):
        books.close(call.open_call, call.record, b"x" * (STORED_MAX_BYTES + 1), call.on_close)

    assert await call.close(books, stored=b"x" * STORED_MAX_BYTES) == "closed"


STORE = f"stored:{ALICE}"


def stored_bytes(valkey):
    """The total, which must be the sum of the minutes that were not swept."""
    fields = {name.decode(): int(value) for name, value in valkey.hgetall(STORE).items()}
    total, swept = fields.pop("total"), fields.pop("swept")
    assert total == sum(fields.values())
    assert all(int(minute) >= swept for minute in fields)
    return total


async def store(books, claim, stored=b"answer", **given):
    call = Asked(claim=claim, **given)
    assert await call.open(books) == "open"
    assert await call.close(books, stored=stored) == "closed"
    return call


async def test_stored_answers_count_as_the_memory_that_they_take(books, account, valkey):
    for number in range(300):
        await store(books, b"%d" % number, stored=b"x" * 100)
    grown = sum(valkey.memory_usage(claim) for claim in valkey.keys("claim:*"))

    assert stored_bytes(valkey) == 300 * (400 + 100)
    assert grown <= stored_bytes(valkey) <= 3 * grown


async def test_a_tenant_that_has_stored_too_much_opens_no_call_with_a_claim(books, account, valkey):
    accounts.create(CHARLIE, state=valkey)
    await store(books, b"a")

    valkey.hset(STORE, "total", 1 << 40)
    assert await Asked(claim=b"b").open(books) == "quota:stored"
    assert await Asked().open(books) == "open"
    assert await Asked(claim=b"c", tenant=CHARLIE).open(books) == "open"


async def test_of_much_that_is_stored_less_is_kept(books, account, valkey):
    call = await store(books, b"a", keep=(3600, 60))
    assert valkey.ttl(call.open_call.claim_key) > 3500

    valkey.hset(STORE, "total", STORED_TENANT_MAX_BYTES // 4 + 1)
    call = await store(books, b"b", keep=(3600, 60))
    assert 0 < valkey.ttl(call.open_call.claim_key) <= 60


async def test_what_has_expired_is_counted_no_more(books, account, valkey):
    await store(books, b"a")
    kept = stored_bytes(valkey)
    minute = int(valkey.hget(STORE, "swept"))
    valkey.hset(
        STORE, mapping={"swept": minute - 90, str(minute - 80): 1 << 30, str(minute - 1): 5, "total": kept + (1 << 30) + 5}
    )

    await store(books, b"b")

    assert stored_bytes(valkey) == 2 * kept
    assert len(valkey.hgetall(STORE)) in (3, 4)  # both end in the same minute, or in two


async def test_the_count_of_an_idle_tenant_starts_anew(books, account, valkey):
    await store(books, b"a")

    assert 48 * 3600 < valkey.ttl(STORE) <= 49 * 3600


async def test_one_caller_s_failing_callback_takes_no_verdict_from_the_others(books, account):
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    bad, good = Asked(), Asked()
    bad.open_call.on_open = lambda verdict, stored: 1 / 0

    books.open(bad.open_call)
    assert await good.open(books) == "open"

    assert [type(failure) for failure in failures] == [ZeroDivisionError]
