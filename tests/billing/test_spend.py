"""GET /api/v1/billing/spend and /api/v1/billing/credit."""

from contextlib import closing
from datetime import UTC, datetime

import pytest

from billing.caps import credit, spend
from billing.ledger import writing
from billing.sale import plans
from saas.lib.money import NANO
from tenants.access import SYSTEM
from tests.billing.journal import settle, usage

SPEND, CREDIT = "/api/v1/billing/spend", "/api/v1/billing/credit"


@pytest.fixture
def used(alice, journal, state):
    """`used(*nano)`: Alice's answered calls of so much each."""

    def add(*amounts):
        journal.add(*[usage(alice.organization.id, nano=nano, max_nano=nano) for nano in amounts])
        settle(state, journal.name)

    return add


def test_free_shows_the_calls_that_are_left(alice, client_of, used):
    used(0, 0, 0)

    body = client_of(alice).get(SPEND).json()

    assert (body["plan"], body["calls"], body["amount"], body["total"]) == ("free", 3, "0.00", "0.00")
    assert body["included"] == {"calls": 10000, "calls_left": 9997, "amount": "0.00", "amount_left": "0.00"}


def test_beyond_what_pro_includes_the_tiers_are_charged(alice, client_of, used):
    plans.change(alice.organization.id, "pro", actor=SYSTEM)
    used(100 * NANO, 30 * NANO)

    body = client_of(alice).get(SPEND).json()

    assert (body["amount"], body["overage"], body["fee"], body["total"]) == ("130.00", "9.00", "99.00", "108.00")
    assert (body["included"]["amount"], body["included"]["amount_left"]) == ("120.00", "0.00")


def test_the_forecast_is_what_it_comes_to_at_this_rate():
    assert spend.elapsed(datetime(2026, 11, 16, tzinfo=UTC)) == 0.5
    assert spend.elapsed(datetime(2026, 11, 1, tzinfo=UTC)) == 1 / 720


def test_credit_is_listed_in_the_order_of_its_use(alice, client_of, used):
    for nano, category in [(3, "paid"), (5, "promotional"), (2, "promotional")]:
        credit.grant(
            alice.organization.id, amount_nano=nano * NANO, category=category, reason="welcome", actor=SYSTEM,
            priority=nano,
        )  # fmt: skip
    used(4 * NANO)
    with closing(writing.connect()) as connection:
        credit.settle_all(connection)

    body = client_of(alice).get(CREDIT).json()

    assert (body["balance"], body["is_prepaid"]) == ("6.00", False)
    assert [(each["amount"], each["remaining"]) for each in body["grants"]] == [
        ("5.00", "3.00"),
        ("3.00", "3.00"),
        ("2.00", "0.00"),
    ]
    assert client_of(alice).get(SPEND).json()["credit_used"] == "4.00"


@pytest.mark.parametrize("url", [SPEND, CREDIT])
def test_only_who_may_bill_sees_it(alice, charlie, bob, client_of, make_key, url):
    assert client_of(None).get(url).status_code == 401
    assert client_of(bob).get(url).status_code == 403
    assert client_of(make_key(alice.organization, scopes=["usage:read"])[1]).get(url).status_code == 403
    assert client_of(make_key(alice.organization, scopes=["billing:read"])[1]).get(url).status_code == 200
    assert client_of(charlie).get(CREDIT).json()["grants"] == []
