"""An account made anew holds what the ledger, the journal and the open calls say."""

from contextlib import closing

import pytest

from billing.ledger import writing
from billing.ledger.drain import Drain
from billing.ledger.rebuild import read_snapshot, rebuild, rebuild_wanted
from inference.books import accounts
from inference.books.pruning import Pruner
from inference.books.scripts import JOURNAL, WANTED
from saas.lib.ids import uuid7
from tests.billing.journal import Journal, differences_of, usage


@pytest.fixture
def connection(embedded):
    with closing(writing.connect()) as connection:
        yield connection


@pytest.fixture
def books(state):
    """The journal that gateways write, and its drain."""
    return Journal(state, JOURNAL), Drain(state)


def test_ledger_and_journal_are_added_up(books, tenant, connection):
    journal, drain = books
    key = uuid7().hex
    journal.add(usage(tenant, key=key, nano=2), usage(tenant, nano=3))
    while drain.step():
        pass
    waiting = usage(tenant, key=key, nano=4)
    journal.add(waiting, usage(tenant, mode="test", nano=0), usage(tenant, kind="reversed", nano=0), usage(uuid7()))

    assert rebuild(connection, tenant)

    sums = accounts.read(tenant.hex).sums
    assert sums["organization", "ever"] == (3, 9)
    assert sums["organization", waiting.period] == (3, 9)
    assert sums[key, "ever"] == (2, 6)
    while drain.step():
        pass
    snapshot = read_snapshot(connection, tenant)
    assert accounts.compare(tenant.hex, snapshot.sums, snapshot.position) == {}


def test_a_snapshot_that_the_drain_has_passed_is_refused(books, tenant, connection, monkeypatch):
    journal, drain = books
    journal.add(usage(tenant))
    stale = read_snapshot(connection, tenant)
    while drain.step():
        pass
    monkeypatch.setattr("billing.ledger.rebuild.read_snapshot", lambda *_: stale)
    assert not rebuild(connection, tenant)
    monkeypatch.undo()

    assert rebuild(connection, tenant)

    assert accounts.read(tenant.hex).sums["organization", "ever"] == (1, 5)


def test_what_is_wanted_is_rebuilt(books, tenant, state):
    state.sadd(WANTED, tenant.hex)
    link = writing.Link()

    rebuild_wanted(link)
    link.close()

    assert accounts.read(tenant.hex) is not None
    assert tenant.hex not in accounts.wanted()


def test_old_months_are_in_the_ledger_and_neither_rebuilt_nor_missed(books, tenant, connection, state, ledger):
    journal, drain = books
    old = usage(tenant, period="2024-12", nano=4)
    journal.add(old, usage(tenant, nano=3))
    while drain.step():
        pass
    journal.add(usage(tenant, period="2024-12", nano=5))  # closed late
    pruner = Pruner(state)
    while pruner.step():
        pass

    assert rebuild(connection, tenant)

    sums = accounts.read(tenant.hex).sums
    assert sums["organization", "ever"] == (3, 12)
    assert ("organization", "2024-12") not in sums
    assert differences_of(tenant) == []
    while drain.step():
        pass
    assert ledger(
        "SELECT sum(calls), sum(amount_nano) FROM usage_month WHERE tenant_id = %s AND period = '2024-12'",
        tenant,
    ) == [(2, 9)]
    assert differences_of(tenant) == []


def test_books_that_agree_have_no_differences(books, tenant, connection):
    journal, drain = books
    journal.add(usage(tenant), usage(tenant, key=""))
    while drain.step():
        pass
    rebuild(connection, tenant)
    journal.add(usage(tenant))  # not charged to the account: a mistake

    lines = differences_of(tenant)

    while drain.step():
        pass
    assert lines
    assert all(line.startswith("account ") for line in lines)
    rebuild(connection, tenant)
    assert differences_of(tenant) == []
