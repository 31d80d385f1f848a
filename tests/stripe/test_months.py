"""Months go by on the stand-in's clock: usage is invoiced, cards fail, reminders run, payment returns."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.stripe import customers, usage
from billing.stripe import invoices as stripe_invoices
from billing.stripe import portal as stripe_portal

pytestmark = pytest.mark.no_servers
CENTS = 10_000  # millionths of a dollar in a cent


@pytest.fixture
def use(standin, customer):
    """`use(cents, at=None)`: report usage."""

    def do(cents, at=None, identifier="u"):
        at = at or datetime.fromtimestamp(standin.now, UTC)
        usage.send_meter_event(
            event_name="spend_usd", customer=customer.id, value=cents * CENTS, identifier=f"{identifier}:{cents}:{at}", at=at
        )

    return do


@pytest.fixture
def bad_card(standin, customer):
    """`bad_card()`: from now on every charge fails; `bad_card("4242424242424242")` is a good one again."""

    def do(number="4000000000000341"):
        portal = stripe_portal.link(customer=customer.id, return_url="https://maas.test/back")
        assert standin.click(portal, card=number, do="card")[0] == 303

    return do


def latest(subscription):
    return stripe_invoices.retrieve_invoice(customers.retrieve_subscription(subscription.id).latest_invoice)


def status(subscription):
    return customers.retrieve_subscription(subscription.id).status


def test_a_month_is_invoiced_an_hour_after_its_end(standin, subscribe, use):
    subscription = subscribe()
    use(1_500)
    standin.advance_to(standin.next_month())
    draft = latest(subscription)
    standin.advance(3_601)
    paid = latest(subscription)

    # 15 dollars were used, 10 are included, and the next month's fee is due.
    assert [(line.units, line.amount_minor) for line in draft.lines] == [(10_000_000, 0), (5_000_000, 500), (1, 5_000)]
    assert (draft.status, draft.reason, draft.total_minor) == ("draft", "subscription_cycle", 5_500)
    assert (paid.status, paid.paid_minor, paid.id) == ("paid", 5_500, draft.id)
    assert {line.period_end for line in draft.lines[:2]} == {draft.period_end}


def test_what_was_told_to_nobody_stays_a_draft_for_three_days(standin, subscribe):
    subscription = subscribe()
    standin.answer_webhooks_with = 503
    standin.advance_to(standin.next_month())
    standin.advance(2 * 86_400)
    assert latest(subscription).status == "draft"

    standin.advance(86_401)

    assert latest(subscription).status == "paid"


def test_it_is_final_an_hour_after_it_was_told(standin, subscribe):
    subscription = subscribe()
    standin.answer_webhooks_with = 503
    standin.advance_to(standin.next_month())
    standin.advance(2 * 3600)
    standin.answer_webhooks_with = 200
    standin.all_delivered()
    standin.advance(3_500)
    assert latest(subscription).status == "draft"

    standin.advance(101)

    assert latest(subscription).status == "paid"


def test_usage_that_comes_within_the_hour_still_counts(standin, subscribe, use):
    subscription = subscribe()
    end = standin.next_month()
    standin.advance_to(end)
    use(1_200, at=end - timedelta(hours=1))

    assert latest(subscription).total_minor == 5_200
    standin.advance(3_601)
    use(900, at=end - timedelta(hours=2))
    assert latest(subscription).total_minor == 5_200


def test_usage_of_the_next_month_is_not_on_this_ones_invoice(standin, subscribe, use):
    subscription = subscribe()
    end = standin.next_month()
    standin.advance_to(end)
    use(2_000, at=end)

    assert latest(subscription).total_minor == 5_000
    standin.advance_to(standin.next_month())
    assert latest(subscription).total_minor == 6_000


def test_each_month_has_its_invoice_even_if_the_clock_jumps(standin, subscribe):
    subscription = subscribe()
    standin.advance(100 * 86_400)
    invoices = stripe_invoices.invoices_of(subscription.customer)

    cycles = [invoice for invoice in invoices if invoice.reason == "subscription_cycle"]
    assert {(invoice.total_minor, invoice.status) for invoice in cycles} == {(5_000, "paid")}
    assert all(invoice.period_end.day == 1 for invoice in cycles)
    assert len(cycles) >= 3


def test_a_card_that_fails_is_tried_four_times_and_then_the_subscription_is_unpaid(standin, subscribe, bad_card):
    subscription = subscribe()
    bad_card()
    standin.pass_month(hours=2)
    assert (status(subscription), latest(subscription).attempts) == ("past_due", 1)
    seen = []
    for days in (3, 5, 7):
        standin.advance(days * 86_400)
        seen.append((latest(subscription).attempts, status(subscription)))

    assert seen == [(2, "past_due"), (3, "past_due"), (4, "unpaid")]
    assert latest(subscription).next_attempt_at is None
    assert standin.types().count("invoice.payment_failed") == 4


def test_payment_brings_it_back(standin, subscribe, bad_card):
    subscription = subscribe()
    bad_card()
    standin.pass_month(days=20)
    assert status(subscription) == "unpaid"

    bad_card("4242424242424242")
    assert stripe_invoices.pay_invoice(latest(subscription).id).status == "paid"
    assert status(subscription) == "active"
    assert standin.types()[-1] == "customer.subscription.updated"


def test_a_reminder_is_paid_by_a_new_card(standin, subscribe, bad_card):
    subscription = subscribe()
    bad_card()
    standin.pass_month(hours=2)
    bad_card("4242424242424242")
    standin.advance(3 * 86_400)

    assert (status(subscription), latest(subscription).status) == ("active", "paid")


def test_the_drafts_of_an_unpaid_subscription_stay_drafts(standin, subscribe, bad_card):
    subscription = subscribe()
    bad_card()
    standin.pass_month(days=20)
    standin.pass_month(days=2)

    assert (latest(subscription).status, latest(subscription).finalizes_by_itself) == ("draft", False)


def test_a_trial_costs_nothing_and_then_begins(standin, customer, catalogue, monkeypatch):
    """We ask for none; somebody may, at Stripe."""
    checkout = customers._checkout

    def with_trial(params, key):
        return checkout(params | {"subscription_data": params["subscription_data"] | {"trial_period_days": 7}}, key)

    monkeypatch.setattr(customers, "_checkout", with_trial)
    session = customers.checkout_for_subscription(
        customer=customer.id, prices=catalogue["pro"], metadata={}, success_url="https://m.test", cancel_url="https://m.test",
        key="trial",
    )  # fmt: skip
    standin.click(session.url, card="4242424242424242", do="pay")
    subscription = customers.subscriptions_of(customer.id)[0]

    assert (subscription.status, latest(subscription).total_minor) == ("trialing", 0)
    standin.advance(7 * 86_400)
    standin.advance(7_200)
    assert status(subscription) == "active"
    assert 0 < latest(subscription).paid_minor <= 5_000


def test_a_refused_first_payment_leaves_it_incomplete_and_then_expired(standin, bad_card, catalogue, customer):
    bad_card()
    subscription = customers.create_subscription(customer=customer.id, prices=catalogue["pro"], metadata={}, key="s")

    assert subscription.status == "incomplete"
    standin.advance(24 * 3600)
    assert status(subscription) == "incomplete_expired"


def test_the_last_month_of_a_canceled_one_is_invoiced_without_a_new_fee(standin, subscribe, use):
    subscription = subscribe()
    use(1_100)
    customers.cancel_subscription(subscription.id, at_period_end=True)
    standin.pass_month(hours=2)

    assert (status(subscription), latest(subscription).paid_minor) == ("canceled", 100)


def test_a_restart_forgets_nothing(standin, subscribe, use):
    subscription = subscribe()
    standin.advance_to(standin.next_month())
    now = standin.now
    standin.restart()

    assert standin.now - now < 60
    standin.advance(3_601)
    assert latest(subscription).status == "paid"


def test_a_test_clock_moves_it_too(standin, subscribe):
    subscription = subscribe()
    now = standin.now
    _, clock = standin.ask("POST", "/v1/test_helpers/test_clocks", {"frozen_time": now})
    later, far = now + 40 * 86_400, now + 400 * 86_400

    assert standin.ask("POST", f"/v1/test_helpers/test_clocks/{clock['id']}/advance", {"frozen_time": later})[0] == 200
    assert latest(subscription).reason == "subscription_cycle"
    assert standin.ask("POST", f"/v1/test_helpers/test_clocks/{clock['id']}/advance", {"frozen_time": far})[0] == 400
    assert standin.ask("POST", "/_standin/clock", {"to": now})[0] == 400
