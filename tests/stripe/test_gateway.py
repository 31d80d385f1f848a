"""Each thing that we ask of Stripe, asked of the stand-in. The contract is checked on every request by the fixture."""

import secrets
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing import stripe_gateway
from billing.stripe import catalogue as stripe_catalogue
from billing.stripe import customers, invoices, usage
from billing.stripe import portal as stripe_portal
from billing.stripe_gateway import StripeRefused
from saas.lib.errors import PaymentRefused, PaymentsUnavailable

pytestmark = pytest.mark.no_servers


def test_without_a_key_payments_are_unavailable(settings):
    with pytest.raises(PaymentsUnavailable, match="not set up"):
        stripe_gateway.client()


def test_a_customer_is_made_once_for_an_organization(standin):
    organization = secrets.token_hex(16)
    first, second = (customers.create_customer(organization=organization, email="a@example.org", name="A") for _ in range(2))

    assert first == second
    assert first.metadata["organization"] == organization
    assert not first.has_card


def test_a_customer_changes_name_and_address(customer):
    changed = customers.update_customer(customer.id, email="new@example.org", name="New")

    assert customers.retrieve_customer(customer.id) == changed
    assert (changed.email, changed.name) == ("new@example.org", "New")


def test_a_customer_that_is_not_there_is_refused(standin):
    with pytest.raises(StripeRefused) as refusal:
        customers.retrieve_customer("cus_nobody")

    assert (refusal.value.http_status, refusal.value.stripe_code) == (404, "resource_missing")


def test_the_catalogue_is_listed_page_by_page(standin):
    for number in range(103):
        stripe_catalogue.create_product(id=f"p{number}", name=f"P{number}", metadata={})

    assert {product.id for product in stripe_catalogue.products()} == {f"p{number}" for number in range(103)}


def test_small_prices_are_sent_without_an_exponent(catalogue):
    price = stripe_catalogue.create_price(
        product="plan_pro", lookup_key="tiny", currency="USD", minor=Decimal("0.0000001"), metadata={}
    )

    assert price.minor == Decimal("0.0000001")
    assert stripe_catalogue.deactivate_price(price.id).is_active is False


def test_a_price_cannot_be_made_twice_under_one_name(catalogue):
    with pytest.raises(StripeRefused, match="lookup key"):
        stripe_catalogue.create_price(product="plan_pro", lookup_key="pro:fee", currency="USD", minor=Decimal(1), metadata={})


def test_products_and_meters_are_read_back(catalogue):
    changed = stripe_catalogue.update_product("plan_pro", name="Pro 2", is_active=False, metadata={"plan": "pro"})

    assert changed in stripe_catalogue.products()
    assert stripe_catalogue.meters() == [catalogue["meter"]]
    assert {price.lookup_key: price.meter for price in stripe_catalogue.prices()}["pro:usage"] == catalogue["meter"].id


def test_a_subscription_is_bought_on_the_checkout_page(standin, subscribe, customer):
    subscription = subscribe()

    assert (subscription.status, subscription.customer, subscription.metadata["plan"]) == ("active", customer.id, "pro")
    assert {item.is_metered for item in subscription.items} == {True, False}
    assert {item.period_end for item in subscription.items} == {standin.next_month()}
    assert customers.retrieve_customer(customer.id).has_card
    assert customers.subscriptions_of(customer.id) == [subscription]


def test_its_first_fee_is_prorated_by_seconds(standin, subscribe):
    subscription = subscribe()
    invoice = invoices.retrieve_invoice(subscription.latest_invoice)
    item = next(item for item in subscription.items if not item.is_metered)
    end = item.period_end
    whole = end - (end - timedelta(days=1)).replace(day=1)
    expected = (Decimal(5000) * Decimal((end - item.period_start).total_seconds()) / Decimal(whole.total_seconds())).quantize(1)

    assert invoice.status == "paid"
    assert invoice.total_minor == invoice.paid_minor == int(expected)


def test_credit_is_bought_once(standin, customer):
    session = customers.checkout_for_credit(
        customer=customer.id,
        amount_minor=2500,
        currency="USD",
        description="Credit",
        metadata={"grant": "1"},
        success_url="https://maas.test/ok",
        cancel_url="https://maas.test/no",
        key="credit-1",
    )
    standin.click(session.url, card="4242424242424242", do="pay")
    done = customers.retrieve_checkout(session.id)
    payment = invoices.retrieve_payment(done.payment)

    assert (done.status, done.is_paid, done.amount_minor) == ("complete", True, 2500)
    assert (payment.is_paid, payment.amount_minor, payment.currency) == (True, 2500, "USD")
    assert payment.metadata["grant"] == "1"


def test_a_payment_is_refunded_never_more_than_it_was(standin, customer):
    session = customers.checkout_for_credit(
        customer=customer.id, amount_minor=2500, currency="USD", description="Credit", metadata={},
        success_url="https://maas.test/ok", cancel_url="https://maas.test/no", key="credit-1",
    )  # fmt: skip
    standin.click(session.url, card="4242424242424242", do="pay")
    payment = customers.retrieve_checkout(session.id).payment

    first, again = (invoices.refund(payment=payment, amount_minor=2000, key="refund-1") for _ in range(2))

    assert first == again
    with pytest.raises(StripeRefused, match="greater than"):
        invoices.refund(payment=payment, amount_minor=501, key="refund-2")


def test_a_change_of_plan_costs_what_its_preview_said(standin, subscribe, catalogue, customer):
    subscription = subscribe()
    standin.advance(60)
    at = datetime.fromtimestamp(standin.now, UTC)
    preview = customers.preview_change(subscription.id, prices=catalogue["team"], proration_at=at)

    assert {item.price for item in customers.retrieve_subscription(subscription.id).items} == {
        price for price, _ in catalogue["pro"]
    }
    changed = customers.change_subscription(
        subscription.id, prices=catalogue["team"], metadata={"plan": "team"}, proration_at=at
    )
    standin.advance_to(standin.next_month())
    invoice = invoices.retrieve_invoice(customers.retrieve_subscription(subscription.id).latest_invoice)

    assert {item.price for item in changed.items} == {price for price, _ in catalogue["team"]}
    assert changed.metadata["plan"] == "team"
    assert [line.amount_minor for line in preview.lines] == [line.amount_minor for line in invoice.lines]
    assert sum(line.is_proration for line in invoice.lines) == 2


def test_a_subscription_ends_with_its_period_or_at_once(standin, subscribe, customer):
    subscription = subscribe()
    kept = customers.cancel_subscription(subscription.id, at_period_end=True)

    assert (kept.status, kept.cancels_at) == ("active", standin.next_month())
    standin.advance_to(standin.next_month())
    assert customers.retrieve_subscription(subscription.id).status == "canceled"

    second = subscribe()
    assert customers.cancel_subscription(second.id, at_period_end=False).status == "canceled"


def test_usage_is_counted_by_hour(standin, subscribe, customer, catalogue):
    at = datetime.fromtimestamp(standin.now, UTC).replace(minute=0, second=0)
    for number, value in enumerate((1_000, 500, -200)):
        usage.send_meter_event(event_name="spend_usd", customer=customer.id, value=value, identifier=f"mt1:a:{number}", at=at)
    found = usage.usage_by_hour(
        meter=catalogue["meter"].id, customer=customer.id, start=at - timedelta(hours=1), end=at + timedelta(hours=1)
    )

    assert found == {at: 1_300}
    usage.cancel_meter_event(event_name="spend_usd", identifier="mt1:a:1")
    assert usage.usage_by_hour(meter=catalogue["meter"].id, customer=customer.id, start=at, end=at + timedelta(hours=1)) == {
        at: 800
    }


@pytest.mark.parametrize(("days", "minutes"), [(-36, 0), (0, 6)])
def test_usage_too_old_or_of_the_future_is_refused(standin, customer, catalogue, days, minutes):
    at = datetime.fromtimestamp(standin.now, UTC) + timedelta(days=days, minutes=minutes)

    with pytest.raises(StripeRefused, match="within the past 35 days"):
        usage.send_meter_event(event_name="spend_usd", customer=customer.id, value=1, identifier="x", at=at)


def test_a_held_draft_stays_one_until_it_is_finalized(standin, subscribe):
    subscription = subscribe()
    standin.advance_to(standin.next_month())
    draft = customers.retrieve_subscription(subscription.id).latest_invoice
    held = invoices.hold_invoice(draft)
    standin.advance(3 * 3600)

    assert (held.finalizes_by_itself, invoices.retrieve_invoice(draft).status) == (False, "draft")
    assert invoices.finalize_invoice(draft).status == "open"
    standin.advance(1)
    paid = invoices.retrieve_invoice(draft)
    assert (paid.status, paid.paid_minor) == ("paid", 5000)
    assert paid in invoices.invoices_of(subscription.customer)


def test_a_line_is_added_to_a_draft_once(standin, subscribe, customer):
    subscription = subscribe()
    standin.advance_to(standin.next_month())
    draft = customers.retrieve_subscription(subscription.id).latest_invoice
    for _ in range(2):
        invoices.add_invoice_item(
            customer=customer.id,
            invoice=draft,
            amount_minor=-700,
            currency="USD",
            description="Sorry",
            metadata={},
            key="sorry",
        )

    assert invoices.retrieve_invoice(draft).total_minor == 4300


def test_a_credit_note_goes_to_the_card_or_to_the_balance(standin, subscribe):
    subscription = subscribe()
    invoice = subscription.latest_invoice
    invoices.credit_note(invoice=invoice, amount_minor=1, reason="Sorry", is_refund=True, key="note-1")
    invoices.credit_note(invoice=invoice, amount_minor=2, reason="Sorry", is_refund=False, key="note-2")
    standin.pass_month(hours=2)
    after = invoices.retrieve_invoice(customers.retrieve_subscription(subscription.id).latest_invoice)

    assert (after.total_minor, after.paid_minor) == (5000, 4998)
    with pytest.raises(StripeRefused, match="what is left"):
        invoices.credit_note(invoice=invoice, amount_minor=5000, reason="Too much", is_refund=True, key="note-3")


def test_a_final_invoice_that_is_open_can_be_voided_and_one_with_a_bad_card_not_paid(standin, subscribe, customer):
    subscription = subscribe()
    portal = stripe_portal.link(customer=customer.id, return_url="https://maas.test/back")
    standin.click(portal, card="4000000000000341", do="card")
    standin.pass_month(hours=2)
    invoice = customers.retrieve_subscription(subscription.id).latest_invoice

    with pytest.raises(PaymentRefused, match="declined"):
        invoices.pay_invoice(invoice)
    assert invoices.retrieve_invoice(invoice).status == "open"
    assert invoices.void_invoice(invoice).status == "void"


def test_a_customer_with_a_card_subscribes_without_a_page(standin, subscribe, catalogue, customer):
    customers.cancel_subscription(subscribe().id, at_period_end=False)

    first, again = (
        customers.create_subscription(customer=customer.id, prices=catalogue["team"], metadata={}, key="new") for _ in "ab"
    )

    assert first.id == again.id
    assert first.status == "active"


def test_taxes_are_reckoned_by_stripe_where_that_is_on(standin, settings, customer, catalogue):
    settings.CONFIG = settings.CONFIG.model_copy(update={"stripe_tax": True})
    page = customers.checkout_for_subscription(
        customer=customer.id,
        prices=catalogue["pro"],
        metadata={},
        success_url="https://m.test",
        cancel_url="https://m.test",
        key="t",
    )
    asked = standin.requests()[-1]["params"]

    assert asked["automatic_tax"] == {"enabled": "true"}
    assert asked["customer_update"] == {"address": "auto", "name": "auto"}
    with pytest.raises(StripeRefused) as refusal:  # nobody knows yet where the customer is taxed
        customers.create_subscription(customer=customer.id, prices=catalogue["team"], metadata={}, key="no-page")
    assert refusal.value.stripe_code == "customer_tax_location_invalid"
    assert standin.click(page.url, card="4242424242424242", do="pay")[0] == 303
    bought = customers.create_subscription(customer=customer.id, prices=catalogue["team"], metadata={}, key="later")
    assert bought.status == "active"


def test_credit_can_be_bought_with_taxes(standin, settings, customer):
    settings.CONFIG = settings.CONFIG.model_copy(update={"stripe_tax": True})
    page = customers.checkout_for_credit(
        customer=customer.id,
        amount_minor=500,
        currency="USD",
        description="Credit",
        metadata={},
        success_url="https://m.test",
        cancel_url="https://m.test",
        key="c",
    )

    assert standin.click(page.url, card="4242424242424242", do="pay")[0] == 303
    assert standin.ask("GET", f"/v1/customers/{customer.id}")[1]["address"] == {"country": "US"}


def test_events_are_listed_from_a_moment_on(standin, customer):
    since = datetime.fromtimestamp(standin.now, UTC)
    found = [
        (event.type, event.object_kind, event.object_id)
        for event in stripe_gateway.events_since(since - timedelta(minutes=1))
        if event.customer
    ]

    assert found == [(f"customer.{what}", "customer", customer.id) for what in ("updated", "created")]  # newest first
    assert list(stripe_gateway.events_since(since + timedelta(minutes=1))) == []
