"""GET /api/v1/billing/spend and /api/v1/billing/credit."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from billing.caps import credit, spend
from billing.ledger import writing
from billing.models import Subscription
from billing.sale import plans
from saas.lib import clock
from saas.lib.money import NANO
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tests.billing.journal import settle, usage
from tests.waiting import until

SPEND, CREDIT = "/api/v1/billing/spend", "/api/v1/billing/credit"


@pytest.fixture
def used(alice, journal, state):
    """`used(*nano)`: Alice's answered calls of so much each."""

    def add(*amounts):
        now = clock.now_ms()
        journal.add(*[usage(alice.organization.id, nano=nano, max_nano=nano, closed_ms=now) for nano in amounts])
        settle(state, journal.name)
        until(lambda: clock.now_ms() > now, what="the moment after the calls")

    return add


def whole_month(user):
    """As if the plan of now had begun with the month, and none had been before."""
    with as_operator():
        rows = Subscription.objects.of(user.organization)
        rows.update(since=clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def test_free_shows_the_calls_that_are_left(alice, client_of, used):
    used(0, 0, 0)

    body = client_of(alice).get(SPEND).json()

    assert (body["plan"], body["calls"], body["amount"], body["total"]) == ("free", 3, "0.00", "0.00")
    assert body["included"] == {"calls": 10000, "calls_left": 9997, "amount": "0.00", "amount_left": "0.00"}


def test_beyond_what_pro_includes_the_tiers_are_charged(alice, client_of, used):
    plans.change(alice.organization.id, "pro", actor=SYSTEM)
    whole_month(alice)
    used(100 * NANO, 30 * NANO)

    body = client_of(alice).get(SPEND).json()

    assert (body["amount"], body["overage"], body["fee"], body["total"]) == ("130.00", "9.00", "99.00", "108.00")
    assert (body["included"]["amount"], body["included"]["amount_left"]) == ("120.00", "0.00")
    assert [part["plan"] for part in body["parts"]] == ["pro"]


def test_a_month_of_two_plans_is_shown_in_parts(alice, client_of, used):
    """On pay as you go from the month's beginning, on Pro since just now: each part has what was used in it."""
    plans.change(alice.organization.id, "pay-as-you-go", actor=SYSTEM)
    whole_month(alice)
    used(3 * NANO, 4 * NANO)
    plans.change(alice.organization.id, "pro", actor=SYSTEM)
    used(2 * NANO)

    body = client_of(alice).get(SPEND).json()

    first, second = body["parts"]
    assert (first["plan"], first["amount"], first["included"], first["overage"]) == ("pay-as-you-go", "7.00", "0.00", "7.00")
    assert (second["plan"], second["amount"], body["plan"], body["amount"]) == ("pro", "2.00", "pro", "9.00")
    left = (datetime.fromisoformat(second["to"]) - datetime.fromisoformat(second["from"])).total_seconds()
    start = datetime.fromisoformat(first["from"])
    assert second["to"] == f"{(start + timedelta(days=31)).replace(day=1):%Y-%m-%dT%H:%M:%SZ}"
    whole = (datetime.fromisoformat(second["to"]) - start).total_seconds()
    assert abs(float(second["included"]) - 120 * left / whole) < 0.0001
    assert abs(float(body["fee"]) - 99 * left / whole) < 0.0001
    assert body["included"]["amount"] == second["included"]


def test_the_forecast_is_what_it_comes_to_at_this_rate():
    assert spend.elapsed(datetime(2026, 11, 16, tzinfo=UTC)) == 0.5
    assert spend.elapsed(datetime(2026, 11, 1, tzinfo=UTC)) == 1 / 720


def test_credit_is_listed_in_the_order_of_its_use(alice, client_of, used):
    plans.change(alice.organization.id, "pay-as-you-go", actor=SYSTEM)
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
