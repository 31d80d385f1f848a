"""One organization's whole way: Free, the stop, Pro, overage, a month's invoice, a refused card, suspension, and back.

The service is one of its own, since its clock moves: the stand-in for Stripe is told the time, and everything follows.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
import requests

from tests.e2e.customers import Customer
from tests.service import Service, running_service
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(600)]

IRIS = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
GOOD, FAILS_LATER = "4242424242424242", "4000000000000341"
FREE_CALLS = 5
SHORT_FREE = """
INSERT INTO plan_version (plan, version, currency, included_calls, overage, is_prepaid, starts_at, created_at, actor, reason)
SELECT 'free', max(version) + 1, 'USD', %s, '[]', false, now(), now(), 'operator', 'a short way' FROM plan_version
WHERE plan = 'free' RETURNING id
"""
SLOW = 180.0  # seconds, for what waits for periodic work


class World:
    """A customer, and the stand-in as a browser and as who moves the clock."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stripe = service.environment["STRIPE_API_BASE"]
        self.secret = {"Authorization": f"Bearer {service.environment['STRIPE_SECRET_KEY']}"}
        self.customer = Customer(service)
        self.key = self.customer.key()

    def call(self) -> requests.Response:
        url = f"{self.service.base_url}/api/v1/models/iris/predict"
        return requests.post(url, json=IRIS, headers={"Authorization": f"Bearer {self.key}"}, timeout=PATIENCE)

    def billing(self, path: str) -> dict:
        answer = self.customer.get(f"billing/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def link(self, path: str, **body: str) -> str:
        answer = self.customer.post(f"billing/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["url"]

    def click(self, url: str, **form: str) -> None:
        """Open a page of the stand-in's and press a button on it."""
        assert requests.get(url, timeout=PATIENCE).status_code == 200
        assert requests.post(url, data=form, timeout=PATIENCE, allow_redirects=False).status_code == 303

    def use_card(self, card: str) -> None:
        self.click(self.link("portal"), card=card, do="card")

    def state(self) -> str:
        return self.billing("plan")["state"]

    @property
    def now(self) -> datetime:
        found = requests.get(f"{self.stripe}/_standin/clock", headers=self.secret, timeout=PATIENCE)
        return datetime.fromtimestamp(found.json()["now"], UTC)

    def move_to(self, moment: datetime) -> None:
        body = {"to": str(moment.timestamp())}
        moved = requests.post(f"{self.stripe}/_standin/clock", data=body, headers=self.secret, timeout=PATIENCE)
        assert moved.status_code == 200, moved.text

    def next_month(self) -> datetime:
        return (self.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)

    def close_month(self) -> dict:
        """Let the month end; its invoice, once it is final."""
        known = {row["id"] for row in self.billing("invoices")["results"]}
        self.move_to(self.next_month() + timedelta(minutes=2))

        def found() -> dict | None:
            new = [row for row in self.billing("invoices")["results"] if row["id"] not in known and row["status"] != "draft"]
            return self.billing(f"invoices/{new[0]['id']}") if new else None

        return until(found, seconds=SLOW, what="the month's invoice")

    def charged_nano(self, since: str) -> int:
        """What the ledger holds for calls from then on."""
        statement = "SELECT coalesce(sum(amount_nano), 0)::bigint FROM usage_event WHERE tenant_id = %s AND opened_at >= %s"
        return self.service.rows(statement, self.customer.organization, since)[0][0]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_service() as service:
        service.rows(SHORT_FREE, FREE_CALLS)
        yield World(service)


def usage_lines(invoice: dict) -> list[dict]:
    return [line for line in invoice["lines"] if line["is_usage"]]


def due_on_pro(nano: int, parts: list[dict]) -> Decimal:
    """What Pro charges for the part of the month since it was bought: what it includes and its discounts are in proportion."""
    [part] = parts
    start, end = (datetime.fromisoformat(part[name]) for name in ("from", "to"))
    whole = end - (end - timedelta(days=1)).replace(day=1)
    share = Fraction((end - start) // timedelta(milliseconds=1), whole // timedelta(milliseconds=1))
    assert 0 < share < 1

    def half_up(number: Fraction) -> int:
        return math.floor(number + Fraction(1, 2))

    def rate(discount: Fraction) -> Decimal:
        return Decimal(half_up((1 - discount * share) * 10**8)).scaleb(-8)

    beyond = nano // 1000 - half_up(120 * 10**6 * share)
    cheaper = max(0, beyond - 1000 * 10**6)
    tiers = [Decimal(beyond - cheaper) * rate(Fraction(1, 10)), Decimal(cheaper) * rate(Fraction(2, 10))]
    return sum((amount.scaleb(-6).quantize(Decimal("0.01"), ROUND_HALF_UP) for amount in tiers), Decimal(0))


def test_from_free_to_pro_to_a_month_that_is_not_paid_and_back(world):
    # Free: so many calls, then a stop.
    assert world.billing("plan")["plan"] == "free"
    assert [world.call().status_code for _ in range(FREE_CALLS)] == [200] * FREE_CALLS
    stopped = world.call()
    assert (stopped.status_code, stopped.json()["code"]) == (402, "included_used_up"), stopped.text

    # The operator gives iris a price for this organization; the customer buys Pro on the stand-in's page.
    world.service.manage(
        "set_price", "catalog/iris", "--call", "50", "--organization", world.customer.slug, "--reason", "a dear model"
    )
    world.move_to(world.now + timedelta(seconds=30))
    world.click(world.link("checkout", plan="pro"), card=GOOD, do="pay")
    until(lambda: world.billing("plan")["plan"] == "pro", what="Pro")
    until(lambda: world.call().headers.get("X-Maas-Cost") == "50.00 USD", what="a call at the new price")

    # On Pro it calls on at once, passes what is included, and sees the overage while the month runs.
    for _ in range(5):
        assert world.call().status_code == 200
    until(lambda: Decimal(world.billing("spend")["overage"]) > 0, what="the overage")

    # The month closes: the invoice holds the ledger's usage to the last unit, and is paid.
    invoice = world.close_month()
    assert invoice["usage_checked"]
    used = world.charged_nano(usage_lines(invoice)[0]["starts_at"])
    assert used >= 6 * 50 * 10**9
    assert sum(line["quantity"] for line in usage_lines(invoice)) * 1000 == used
    due = due_on_pro(used, invoice["usage_by_plan"])
    adjustment = [line for line in invoice["lines"] if line["is_adjustment"]]
    assert sum(Decimal(line["amount"]) for line in [*usage_lines(invoice), *adjustment]) == due
    assert Decimal(invoice["total"]) == due + 99
    numbers = invoice["reconciliation"]
    assert numbers["verdict"] == "match"
    assert len({numbers["ledger"], numbers["pushed"], numbers["stripe"], numbers["draft"]}) == 1
    paid = until(lambda: world.billing(f"invoices/{invoice['id']}")["status"] == "paid", what="the payment")
    assert paid

    # The next month's payment is refused: served for a while, then suspended.
    world.use_card(FAILS_LATER)
    refused = world.close_month()
    until(lambda: world.state() == "past_due", seconds=SLOW, what="past_due")
    answer = until(lambda: found if (found := world.call()).headers.get("X-Maas-Account") else None, what="the warning")
    assert (answer.status_code, answer.headers["X-Maas-Account"]) == (200, "past_due")
    world.move_to(world.now + timedelta(days=16))
    until(lambda: world.state() == "suspended", seconds=SLOW, what="suspension")
    until(lambda: world.call().status_code == 402, what="a refusal")
    assert world.call().json()["code"] == "account_suspended"

    # It is paid: the service is back.
    world.use_card(GOOD)
    stripe_id = world.service.rows("SELECT stripe_invoice FROM invoice WHERE number = %s", refused["number"])[0][0]
    world.click(world.link("portal"), do=f"invoice:{stripe_id}")
    until(lambda: world.state() == "active", seconds=SLOW, what="active")
    assert until(lambda: world.call().status_code == 200, what="service")
    assert world.billing(f"invoices/{refused['id']}")["status"] == "paid"
