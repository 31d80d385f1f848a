"""The same code against a sandbox of Stripe's, by hand, with STRIPE_TEST_KEY=sk_test_…: CI has none, and has never met Stripe.

With STRIPE_TEST_BASE it runs against a stand-in, so that the suite itself is known to work. It leaves products and customers.
"""

import os
import secrets
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import SecretStr

from billing import stripe_gateway
from billing.sale import segments
from billing.stripe import catalogue, customers, invoices
from billing.stripe import portal as stripe_portal
from billing.stripe import usage as stripe_usage
from billing.stripe_gateway import StripeRefused
from tests.waiting import until

KEY, BASE = os.environ.get("STRIPE_TEST_KEY", ""), os.environ.get("STRIPE_TEST_BASE", "")
pytestmark = [
    pytest.mark.no_servers,
    pytest.mark.skipif(not KEY.startswith("sk_test_"), reason="needs STRIPE_TEST_KEY, the key of a sandbox"),
]
NAME = f"maas-{secrets.token_hex(4)}"


@pytest.fixture(autouse=True)
def _sandbox(settings, broken_promises):
    update = {"stripe_secret_key": SecretStr(KEY), "stripe_api_base": BASE}
    settings.CONFIG = settings.CONFIG.model_copy(update=update)
    yield
    assert broken_promises == []


@pytest.fixture
def customer():
    """One with a card that works."""
    made = customers.create_customer(organization=secrets.token_hex(16), email="sandbox@example.org", name=NAME)
    v1 = stripe_gateway.client().v1
    card = v1.payment_methods.attach("pm_card_visa", {"customer": made.id})
    v1.customers.update(made.id, {"invoice_settings": {"default_payment_method": card.id}})
    return customers.retrieve_customer(made.id)


@pytest.fixture(scope="module")
def names():
    return {}


@pytest.fixture
def prices(names):
    """(fee, usage) of a plan, and its meter; made once."""
    if not names:
        names["meter"] = catalogue.create_meter(event_name=f"{NAME}_spend", display_name=NAME)
        catalogue.create_product(id=f"{NAME}_plan", name=NAME, metadata={"plan": "pro"})
        common = {"product": f"{NAME}_plan", "currency": "USD", "metadata": {"plan": "pro", "version": "1"}}
        fee = catalogue.create_price(lookup_key=f"{NAME}:fee", minor=Decimal(9900), **common)
        tiers = [(120_000_000, Decimal(0)), (None, Decimal("0.00009"))]
        usage = catalogue.create_metered_price(lookup_key=f"{NAME}:usage", meter=names["meter"].id, tiers=tiers, **common)
        names["prices"] = [(fee.id, False), (usage.id, True)]
    return names["prices"]


def test_a_customer_is_made_once_and_has_its_card(customer):
    assert customer.has_card
    again = customers.create_customer(organization=customer.metadata["organization"], email="sandbox@example.org", name=NAME)
    assert again.id == customer.id


def test_prices_are_found_by_their_keys(prices):
    found = catalogue.prices_by_key([f"{NAME}:fee", f"{NAME}:usage"])

    assert {price.id for price in found.values()} == {price for price, _ in prices}
    assert found[f"{NAME}:fee"].minor == 9900
    assert found[f"{NAME}:usage"].meter


def test_pages_have_addresses(customer, prices):
    urls = {"success_url": "https://example.org/ok", "cancel_url": "https://example.org/no"}
    common = {"customer": customer.id, "metadata": {"organization": "a"}, **urls}
    subscription = customers.checkout_for_subscription(prices=prices, key=secrets.token_hex(8), **common)
    credit = customers.checkout_for_credit(
        amount_minor=1000, currency="USD", description="Credit", key=secrets.token_hex(8), **common
    )

    assert {page.status for page in (subscription, credit)} == {"open"}
    assert all(page.url.startswith("http") for page in (subscription, credit))


def test_the_portal_is_set_up_once_and_opened(customer):
    ours = stripe_portal.find() or stripe_portal.create()

    assert stripe_portal.is_right(stripe_portal.update(ours.id))
    assert stripe_portal.find() == ours
    assert stripe_portal.link(customer=customer.id, return_url="https://example.org").startswith("http")


def test_a_page_that_is_ended_cannot_be_paid(customer, prices):
    urls = {"success_url": "https://example.org/ok", "cancel_url": "https://example.org/no"}
    first, second = (
        customers.checkout_for_subscription(
            customer=customer.id, prices=prices, metadata={"organization": "a"}, key=secrets.token_hex(8), **urls
        )
        for _ in range(2)
    )
    customers.end_open_checkouts(customer.id, but=second.id)

    assert [customers.retrieve_checkout(page.id).status for page in (first, second)] == ["expired", "open"]


def test_without_a_card_a_subscription_sends_its_invoices(prices):
    poor = customers.create_customer(organization=secrets.token_hex(16), email="sandbox@example.org", name=NAME)
    made = customers.create_subscription(
        customer=poor.id, prices=prices, metadata={"plan": "pro"}, key=secrets.token_hex(8), days_until_due=14
    )

    assert made.status == "active"
    assert not invoices.retrieve_invoice(made.latest_invoice).attempts


def test_what_is_still_to_be_bought_is_previewed(customer, prices):
    starts = segments.next_month(segments.month_start(datetime.now(UTC)))
    first = customers.preview_subscription(customer=customer.id, prices=prices, starts=starts)

    assert 0 <= first.total_minor <= 9900


def test_a_subscription_lives(customer, prices):
    subscription = customers.create_subscription(
        customer=customer.id, prices=prices, metadata={"plan": "pro"}, key=secrets.token_hex(8)
    )
    assert subscription.status == "active"
    assert {item.is_metered: item.metadata["plan"] for item in subscription.items} == {True: "pro", False: "pro"}
    assert {item.period_end.day for item in subscription.items} == {1}
    assert invoices.retrieve_invoice(subscription.latest_invoice).status == "paid"

    now = datetime.now(UTC).replace(microsecond=0)
    preview = customers.preview_change(subscription.id, prices=prices[1:], proration_at=now)
    assert any(line.is_proration for line in preview.lines)
    customers.preview_end(subscription.id)
    assert customers.cancel_subscription(subscription.id, at_period_end=True).cancels_at
    assert customers.keep_subscription(subscription.id).cancels_at is None
    ended = customers.cancel_subscription(subscription.id, at_period_end=False)
    assert ended.status == "canceled"


def test_usage_is_taken_once_and_counted(customer, prices, names):
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    event = {"event_name": f"{NAME}_spend", "customer": customer.id, "identifier": f"mt1:{secrets.token_hex(8)}", "at": hour}

    assert stripe_usage.send_meter_event(value=1234, **event) is True
    assert stripe_usage.send_meter_event(value=1234, **event) is False
    with pytest.raises(StripeRefused):
        stripe_usage.send_meter_event(value=1, **{**event, "identifier": "old", "at": hour - timedelta(days=36)})

    def counted():
        return stripe_usage.usage_by_hour(
            meter=names["meter"].id, customer=customer.id, start=hour, end=hour + timedelta(hours=1)
        )

    until(lambda: counted() == {hour: 1234}, seconds=120, what="Stripe's sum")


def test_what_happened_is_listed(customer):
    since = datetime.now(UTC) - timedelta(minutes=10)

    assert customer.id in {event.object_id for event in stripe_gateway.events_since(since)}
