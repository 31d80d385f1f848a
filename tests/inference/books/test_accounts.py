"""Limits and sums from outside the hot path, and accounts made anew."""

from uuid import uuid4

import pytest

from inference.books import accounts
from inference.books.accounts import ORGANIZATION, AccountLimits
from tests.inference.books.calls import ALICE, KEY, OTHER_KEY, PERIOD, Asked, charged, read_journal, trim_journal

pytestmark = pytest.mark.no_servers

NONE = accounts.NO_LIMITS


def sums(calls: int, nano: int) -> dict[tuple[str, str], tuple[int, int]]:
    """As the ledger has them for calls of KEY in PERIOD."""
    return {(scope, period): (calls, nano) for scope in (ORGANIZATION, KEY) for period in (PERIOD, "ever")}


def test_a_new_organization_s_account_is_empty_and_known(valkey):
    assert accounts.read(ALICE, state=valkey) is None
    accounts.create(ALICE, state=valkey)

    assert accounts.read(ALICE, state=valkey) == accounts.Account({}, NONE)


def test_creating_an_account_again_changes_nothing(valkey):
    accounts.create(ALICE, state=valkey)
    accounts.set_limits(ALICE, accounts.AccountLimits(5, {KEY: 2}, 3), state=valkey)

    accounts.create(ALICE, state=valkey)

    assert accounts.read(ALICE, state=valkey).limits == AccountLimits(5, {KEY: 2}, 3)


def test_limits_replace_each_other_by_version_and_an_older_one_never_overwrites(valkey):
    accounts.create(ALICE, state=valkey)

    assert accounts.set_limits(ALICE, accounts.AccountLimits(5, {KEY: 2}, 2), state=valkey)
    assert accounts.set_limits(ALICE, accounts.AccountLimits(9, {}, 1), state=valkey)
    assert accounts.read(ALICE, state=valkey).limits == AccountLimits(5, {KEY: 2}, 2)
    assert accounts.set_limits(ALICE, accounts.AccountLimits(None, {OTHER_KEY: 0}, 3), state=valkey)
    assert accounts.read(ALICE, state=valkey).limits == AccountLimits(None, {OTHER_KEY: 0}, 3)


def test_all_kinds_of_limits_are_read_as_they_were_set(valkey):
    accounts.create(ALICE, state=valkey)
    limits = AccountLimits(5, {KEY: 2}, 3, included_calls=4, organization_nano=7, key_nano={OTHER_KEY: 0}, credit_nano=9)

    accounts.set_limits(ALICE, limits, state=valkey)

    assert accounts.read(ALICE, state=valkey).limits == limits
    verdicts = [(cap.verdict, cap.left) for cap in accounts.caps(ALICE, PERIOD, KEY, state=valkey)]
    assert verdicts == [
        ("quota:organization", 5), ("included:organization", 4), ("budget:organization", 7), ("credit:organization", 9),
        ("quota:key", 2),
    ]  # fmt: skip
    assert accounts.install(ALICE, {}, AccountLimits(None, {}, 1), "0-0", state=valkey)
    assert accounts.read(ALICE, state=valkey).limits == limits


@pytest.mark.parametrize(("ending", "limit"), [(90, 10 + 20), (15, 10 + 15), (0, 10)])
async def test_credit_that_ends_still_pays_what_is_charged(books, account, valkey, ending, limit):
    accounts.set_limits(ALICE, AccountLimits(None, {}, 1, credit_nano=100), state=valkey)
    await Asked(most=30).open(books)

    lower = AccountLimits(None, {}, 2, credit_nano=10)
    assert accounts.lower_credit(ALICE, lower, settled=10, ending=ending, state=valkey) == 30

    assert accounts.read(ALICE, state=valkey).limits == AccountLimits(None, {}, 2, credit_nano=limit)
    assert await Asked(most=1).open(books) == "credit:organization"


def test_the_credit_of_an_unknown_account_is_not_lowered(valkey):
    lower = AccountLimits(None, {}, 2, credit_nano=10)
    assert accounts.lower_credit(ALICE, lower, settled=0, ending=5, state=valkey) is None
    assert not valkey.exists(f"limits:{ALICE}")


@pytest.mark.parametrize("calls", [-1, accounts.LIMIT_MAX + 1])
def test_a_limit_that_would_not_be_exact_is_refused(valkey, calls):
    with pytest.raises(ValueError, match="a limit lies between"):
        accounts.set_limits(ALICE, accounts.AccountLimits(calls, {}, 1), state=valkey)


def test_limits_of_an_unknown_account_wait_for_it(valkey):
    assert not accounts.set_limits(ALICE, accounts.AccountLimits(7, {}, 4), state=valkey)
    assert accounts.read(ALICE, state=valkey) is None

    assert accounts.install(ALICE, {}, AccountLimits(1, {}, 3), "0-0", state=valkey)

    assert accounts.read(ALICE, state=valkey).limits == AccountLimits(7, {}, 4)


def test_limits_that_wait_are_found_by_a_new_account(valkey):
    accounts.set_limits(ALICE, accounts.AccountLimits(7, {KEY: 1}, 4), state=valkey)

    accounts.create(ALICE, state=valkey)

    assert accounts.read(ALICE, state=valkey).limits == AccountLimits(7, {KEY: 1}, 4)
    assert valkey.ttl(f"account:{ALICE}") == -1


async def test_a_rebuild_adds_the_journal_and_the_open_calls(books, account, valkey):
    drained, journaled, waiting, test = Asked(most=10), Asked(most=10), Asked(most=10), Asked(most=10, mode="test")
    await drained.open(books)
    await drained.close(books, nano=1)
    [(position, _)] = read_journal(valkey)
    for call in (journaled, waiting, test):
        await call.open(books)
    await journaled.close(books, nano=2)
    trim_journal(valkey, position)
    before = account()
    valkey.delete(f"account:{ALICE}")
    assert await Asked(most=1).open(books) == "unknown"

    assert accounts.wanted(state=valkey) == [ALICE]
    assert accounts.install(ALICE, sums(1, 1), NONE, position, state=valkey)

    assert account() == before == charged(3, 13)
    assert accounts.wanted(state=valkey) == []
    await waiting.undo(books)
    assert account() == charged(2, 3)
    assert accounts.compare(ALICE, sums(1, 1), position, state=valkey) == {}


async def test_a_rebuild_gives_up_when_trimming_passed_its_position(books, account, valkey):
    for _ in range(3):
        call = Asked(most=1)
        await call.open(books)
        await call.close(books)
    first, second, third = (position for position, _ in read_journal(valkey))
    trim_journal(valkey, second)

    assert not accounts.install(ALICE, sums(1, 1), NONE, first, state=valkey)
    assert accounts.compare(ALICE, sums(1, 1), first, state=valkey) is None
    assert accounts.install(ALICE, sums(2, 2), NONE, second, state=valkey)
    assert account() == charged(3, 3)
    trim_journal(valkey, third)
    assert not accounts.install(ALICE, sums(2, 2), NONE, second, state=valkey)
    assert accounts.install(ALICE, sums(3, 3), NONE, third, state=valkey)
    trim_journal(valkey, first)  # a slow drain, late
    assert not accounts.install(ALICE, sums(2, 2), NONE, second, state=valkey)


async def test_a_rebuild_does_not_trust_a_journal_that_another_hand_trimmed(books, account, valkey):
    for _ in range(2):
        call = Asked(most=1)
        await call.open(books)
        await call.close(books)
    first, second = (position for position, _ in read_journal(valkey))
    valkey.execute_command("XTRIM", "journal", "MINID", "=", second)

    assert not accounts.install(ALICE, sums(1, 1), NONE, first, state=valkey)
    valkey.execute_command("XTRIM", "journal", "MAXLEN", "=", 0)
    assert not accounts.install(ALICE, sums(1, 1), NONE, first, state=valkey)
    assert accounts.install(ALICE, sums(2, 2), NONE, second, state=valkey)


async def test_a_rebuild_gives_up_when_too_much_is_left(books, account, valkey):
    calls = [Asked() for _ in range(5)]
    for call in calls:
        await call.open(books)

    assert not accounts.install(ALICE, {}, NONE, "0-0", most=3, state=valkey)
    for call in calls:
        await call.close(books)
    assert not accounts.install(ALICE, {}, NONE, "0-0", most=3, state=valkey)
    assert accounts.install(ALICE, {}, NONE, "0-0", most=50, state=valkey)


async def test_a_comparison_names_what_differs_and_changes_nothing(books, account, valkey):
    call = Asked(most=10)
    await call.open(books)
    await call.close(books, nano=4)
    valkey.hincrby(f"account:{ALICE}", "nano:ever:", 1)

    assert accounts.compare(ALICE, {}, "0-0", state=valkey) == {"nano:ever:": (5, 4)}
    assert accounts.compare(ALICE, {(ORGANIZATION, "2026-01"): (1, 0)}, "0-0", state=valkey) == {
        "nano:ever:": (5, 4),
        "calls:2026-01:": (0, 1),
    }
    assert account()["nano:ever:"] == 5


def test_an_account_of_the_wrong_kind_is_replaced(valkey):
    valkey.set(f"account:{ALICE}", "?")

    assert accounts.install(ALICE, sums(2, 7), AccountLimits(3, {}, 1), "0-0", state=valkey)

    assert accounts.read(ALICE, state=valkey) == accounts.Account(sums(2, 7), AccountLimits(3, {}, 1))


def test_an_organization_may_have_more_limits_than_fit_on_luas_stack(state):
    tenant, keys = uuid4().hex, {uuid4().hex: n for n in range(9_000)}
    accounts.create(tenant, state=state)
    accounts.set_limits(tenant, accounts.AccountLimits(7, keys, 1), state=state)
    assert accounts.read(tenant, state=state).limits.key_calls == keys

    few = dict(list(keys.items())[:2])
    accounts.set_limits(tenant, accounts.AccountLimits(None, few, 2), state=state)

    assert accounts.read(tenant, state=state).limits == accounts.AccountLimits(None, few, 2)
