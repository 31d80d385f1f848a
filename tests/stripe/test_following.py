"""Our subscriptions, plans and states follow Stripe's, by webhooks as they come or do not come."""

import json
import secrets
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone

from billing.caps import credit
from billing.caps.models import CreditGrant
from billing.ledger import writing
from billing.models import StripeEvent, Subscription
from billing.sale import plans
from billing.sale.models import Plan, PlanVersion
from billing.stripe import changing, customers, events, following, invoices, payments
from inference.books import accounts
from saas.lib import clock
from saas.lib.errors import NotFound, StateConflict, ValidationFailed
from tenants.access import Actor
from tenants.databases import as_operator
from tenants.keys import authenticate
from tenants.principal import Limits
from tests.racing import at_once
from tests.stripe.customer import GOOD, LATER, buy, current, use_card
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("its_clock")


@pytest.fixture
def organization(alice):
    return alice.organization


def test_a_new_organization_is_on_free_and_knows_no_customer(organization):
    row = current(organization)

    assert (row.plan_version.plan_id, row.state, row.stripe_customer) == ("free", "active", "")


def test_who_buys_pro_is_on_pro_with_its_limits(standin, organization, work):
    buy(standin, organization)
    work()
    row = current(organization)
    with as_operator():
        organization.refresh_from_db()

    assert (row.plan_version.plan_id, row.plan_version.version, row.state) == ("pro", 1, "active")
    assert (row.stripe_customer[:4], row.stripe_subscription[:4], row.stripe_status) == ("cus_", "sub_", "active")
    assert organization.terms["plan"] == "pro"
    assert organization.rate == row.plan_version.rate


def test_it_does_not_matter_how_events_come(standin, organization, work):
    for fault in ("duplicate", "reorder", "lose", "reorder", "duplicate"):
        standin.fault(fault, times=2)
    buy(standin, organization)
    work()
    customers.update_customer(current(organization).stripe_customer or _customer(organization), email="x@y.z", name="X")
    work()

    assert current(organization).plan_version.plan_id == "pro"


def _customer(organization):
    return payments.customer_of(organization.id, email="alice@example.org")


def test_what_was_never_delivered_is_found_in_the_list_of_events(standin, organization, work):
    standin.fault("lose", times=1000)
    buy(standin, organization)
    work()
    assert current(organization).plan_version.plan_id == "free"

    assert events.catch_up(timedelta(hours=2)) > 0
    assert events.catch_up(timedelta(hours=2)) == 0
    events.process_due()
    assert current(organization).plan_version.plan_id == "pro"


def test_what_came_while_nobody_listened_is_found_however_long_that_was(standin, organization, work):
    buy(standin, organization)
    work()
    standin.fault("lose", times=1000)
    customers.cancel_subscription(current(organization).stripe_subscription, at_period_end=True)
    standin.advance_to(standin.next_month() + timedelta(days=5))
    work()
    assert current(organization).plan_version.plan_id == "pro"

    events.catch_up(timedelta(hours=2))
    events.process_due()
    assert current(organization).plan_version.plan_id == "free"


def test_only_what_was_worked_through_long_ago_is_forgotten(standin, organization):
    old, new = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC)
    names = {name: f"evt_{secrets.token_hex(8)}" for name in ("old", "new", "waits")}
    with as_operator():
        StripeEvent.objects.create(event_id=names["old"], type="t", processed_at=old)
        StripeEvent.objects.create(event_id=names["new"], type="t", processed_at=new)
        StripeEvent.objects.create(event_id=names["waits"], type="t", received_at=old, next_try_at=new + timedelta(days=1))

    assert events.forget() >= 1
    with as_operator():
        left = StripeEvent.objects.filter(event_id__in=names.values())
        assert {row.event_id for row in left} == {names["new"], names["waits"]}


def test_one_at_a_time_is_at_an_object_of_stripes(embedded):
    name, order = secrets.token_hex(8), []
    is_in, may_leave = threading.Event(), threading.Event()

    def first():
        with following.alone(name):
            is_in.set()
            may_leave.wait(PATIENCE)
            order.append("first")

    def second():
        is_in.wait(PATIENCE)
        threading.Timer(0.2, may_leave.set).start()  # what it waits for, not how long
        with following.alone(name):
            order.append("second")

    at_once(first, second)

    assert order == ["first", "second"]


def test_an_event_that_fails_is_tried_again(standin, organization, work):
    buy(standin, organization)
    standin.fault("fail_before", path="/v1/subscriptions", times=1000)
    standin.fault("fail_before", path="/v1/checkout", times=1000)
    work()
    assert current(organization).plan_version.plan_id == "free"
    with as_operator():
        failed = StripeEvent.objects.filter(processed_at=None, customer=_customer(organization)).exclude(error="")
        assert failed
        assert all("OutcomeSaved" in row.error and row.attempts == 1 for row in failed)
    assert events.process(failed[0].event_id) is False  # it waits for its time

    standin.steer("DELETE", "faults")
    with as_operator():
        StripeEvent.objects.filter(processed_at=None).update(next_try_at=datetime(2020, 1, 1, tzinfo=UTC))
    events.process_due()
    assert current(organization).plan_version.plan_id == "pro"


def test_one_event_is_worked_through_once_by_any_number_of_workers(standin, organization):
    buy(standin, organization)
    standin.all_delivered()
    signature, raw = next(delivery for delivery in standin.got if b"customer.subscription.created" in delivery[1])
    name = json.loads(raw)["id"]
    Client().post("/stripe/webhook", raw, content_type="application/json", headers={"Stripe-Signature": signature})

    done = at_once(*[lambda: events.process(name)] * 4)

    assert sorted(done) == [False, False, False, True]
    with as_operator():
        assert Subscription.objects.of(organization).count() == 2  # free, then pro


def test_dunning_ends_in_suspension_and_payment_brings_back(standin, organization, work):
    buy(standin, organization)
    work()
    use_card(standin, organization, LATER)
    standin.pass_month(hours=2)
    work()
    seen = [current(organization).state]
    for days in (3, 5, 7):
        standin.advance(days * 86_400)
        work()
        following.let_time_pass()
        seen.append(current(organization).state)
    with as_operator():
        organization.refresh_from_db()

    assert seen == ["past_due", "grace", "grace", "suspended"]
    assert organization.terms["state"] == "suspended"

    use_card(standin, organization, GOOD)
    invoice = invoices.open_invoices_of(_customer(organization))[0]
    invoices.pay_invoice(invoice.id)
    work()
    assert (current(organization).state, current(organization).plan_version.plan_id) == ("active", "pro")


@pytest.mark.parametrize("way_out", ["pay", "void"])
def test_what_is_written_off_stays_unpaid_until_it_is_paid_or_voided(standin, organization, work, way_out):
    buy(standin, organization)
    work()
    use_card(standin, organization, LATER)
    standin.pass_month(hours=2)
    work()
    seen = current(organization)
    [invoice] = invoices.open_invoices_of(_customer(organization))
    use_card(standin, organization, GOOD)
    invoices.write_off_invoice(invoice.id)
    work()
    following._let_time_pass(seen)  # as a timer that looked before
    assert current(organization).state == "suspended"

    invoices.pay_invoice(invoice.id) if way_out == "pay" else invoices.void_invoice(invoice.id)
    work()
    assert current(organization).state == "active"


def test_in_grace_an_organization_has_a_quarter_of_its_limits(organization, make_key, client_of):
    _, text = make_key(
        organization, scopes=["limits:read"], rate=organization.rate, burst=1, concurrency=organization.concurrency
    )
    plans.set_state(organization.id, "grace", actor=Actor("system", "test"))

    record = authenticate(text)
    assert record.organization_limits == Limits(organization.rate / 4, organization.burst // 4, organization.concurrency // 4)
    assert (record.limits.rate, record.limits.burst) == (organization.rate / 4, 1)
    shown = client_of(text).get("/api/v1/limits").json()
    for level in (shown["organization"], shown["key"]):
        assert level["rate"]["per_second"] == organization.rate / 4
        assert level["concurrency"]["limit"] == organization.concurrency // 4

    plans.set_state(organization.id, "active", actor=Actor("system", "test"))
    assert authenticate(text).organization_limits.rate == organization.rate


def test_time_alone_leads_to_grace_and_suspension_while_stripe_is_away(standin, organization, work):
    buy(standin, organization)
    work()
    use_card(standin, organization, LATER)
    standin.pass_month(hours=2)
    work()
    standin.fault("drop_before", times=1000)
    seen = []
    for days in (2, 2, 11):
        standin.advance(days * 86_400)
        following.let_time_pass()
        seen.append(current(organization).state)

    assert seen == ["past_due", "grace", "suspended"]


def test_a_subscription_that_ends_paid_leads_back_to_free(standin, organization, work):
    buy(standin, organization)
    work()
    changing.cancel(organization.id)
    assert current(organization).plan_version.plan_id == "pro"
    standin.pass_month(hours=2)
    work()

    row = current(organization)
    assert (row.plan_version.plan_id, row.state, row.stripe_status) == ("free", "active", "canceled")
    buy(standin, organization)
    work()
    assert current(organization).plan_version.plan_id == "pro"


def test_a_subscription_that_ends_unpaid_closes(standin, organization, work):
    buy(standin, organization)
    work()
    use_card(standin, organization, LATER)
    standin.pass_month(hours=2)
    customers.cancel_subscription(current(organization).stripe_subscription, at_period_end=True)
    standin.pass_month(hours=2)
    work()

    assert current(organization).state == "closed"


def test_a_plan_is_changed_at_once_here_and_prorated_there(standin, organization, work):
    buy(standin, organization, "pay-as-you-go")
    work()
    assert current(organization).plan_version.plan_id == "pay-as-you-go"
    standin.advance(3600)
    expected = changing.preview(organization.id, "pro")

    changing.choose(organization.id, "pro", actor=Actor("user", "u"), prorated_at=expected.prorated_at)

    assert current(organization).plan_version.plan_id == "pro"
    standin.advance_to(standin.next_month())
    draft = invoices.retrieve_invoice(customers.retrieve_subscription(current(organization).stripe_subscription).latest_invoice)
    assert draft.total_minor == expected.next_invoice
    assert any(line.is_proration for line in draft.lines)


def test_a_plan_changed_at_stripe_is_changed_here(standin, organization, work):
    buy(standin, organization)
    work()
    other = plans.for_sale("pay-as-you-go", "USD")
    name = current(organization).stripe_subscription
    customers.change_subscription(name, prices=payments.prices_of(other), metadata={}, proration_at=clock.now())
    work()

    assert current(organization).plan_version.plan_id == "pay-as-you-go"


def test_a_second_subscription_is_refused(standin, organization, work):
    buy(standin, organization)
    work()

    with pytest.raises(StateConflict, match="subscription already"):
        buy(standin, organization)


@pytest.mark.parametrize("plan", ["free", "prepaid"])
def test_a_plan_that_costs_nothing_by_itself_is_not_paid_for(standin, organization, plan):
    with pytest.raises(StateConflict, match="costs nothing"):
        buy(standin, organization, plan)


@pytest.mark.parametrize("change", [changing.cancel, changing.keep])
def test_without_a_subscription_there_is_nothing_to_change(standin, organization, change):
    with pytest.raises(StateConflict, match="no subscription"):
        change(organization.id)


def credit_of(organization):
    with as_operator():
        return [(grant.amount_nano, grant.category) for grant in CreditGrant.objects.of(organization)]


def test_credit_that_was_paid_for_is_granted_once(standin, organization, work):
    standin.fault("duplicate", times=10)
    urls = {"success_url": "https://m.test", "cancel_url": "https://m.test"}
    page = payments.checkout_credit(organization.id, 25_500_000_000, email="a@example.org", key="k", **urls)
    work()
    assert credit_of(organization) == []
    standin.click(page.url, card=GOOD, do="pay")
    work()
    assert credit_of(organization) == [(25_500_000_000, "paid")]

    payment = invoices.retrieve_payment(customers.retrieve_checkout(page.id).payment)
    payments.grant_credit(payment)
    assert len(credit_of(organization)) == 1
    with pytest.raises(StateConflict, match="less than the credit"):
        payments.grant_credit(replace(payment, id="pi_other", amount_minor=2549))


def test_a_payment_in_another_currency_than_the_organizations_gives_no_credit(standin, organization, work):
    urls = {"success_url": "https://m.test", "cancel_url": "https://m.test"}
    page = payments.checkout_credit(organization.id, 10**10, email="a@example.org", key="a", **urls)
    with as_operator():
        plan = Plan.objects.create(slug=f"euro-{secrets.token_hex(4)}", name="Euro")
        version = PlanVersion.objects.create(plan=plan, version=1, currency="EUR")
    plans.change(organization.id, plan.slug, version=version, actor=Actor("system", "test"))
    standin.click(page.url, card=GOOD, do="pay")
    work()

    assert credit_of(organization) == []
    with as_operator():
        failed = StripeEvent.objects.filter(type="checkout.session.completed", processed_at=None).get()
    assert "in USD, and the organization now in EUR" in failed.error


def buy_credit(standin, organization, card=GOOD):
    """Ten dollars; the payment's id."""
    urls = {"success_url": "https://m.test", "cancel_url": "https://m.test"}
    page = payments.checkout_credit(organization.id, 10**10, email="a@example.org", key=secrets.token_hex(4), **urls)
    assert standin.click(page.url, card=card, do="pay")[0] == 303
    return customers.retrieve_checkout(page.id).payment


def credit_left(organization):
    """After the bookkeeper's next round: (remaining, expired) of each grant, and what calls may still spend."""
    with closing(writing.connect()) as connection:
        credit.expire_due(connection, clock.now())
    with as_operator():
        grants = [(row.remaining_nano, row.expired_nano) for row in CreditGrant.objects.of(organization).order_by("id")]
    return grants, accounts.read(organization.id.hex).limits.credit_nano


def test_money_that_went_back_takes_the_unused_credit_with_it(standin, organization, work):
    plans.change(organization.id, "prepaid", actor=Actor("system", "test"))
    first, _ = buy_credit(standin, organization), buy_credit(standin, organization)
    work()
    assert credit_left(organization) == ([(10**10, 0), (10**10, 0)], 2 * 10**10)
    invoices.refund(payment=first, amount_minor=1000, key=secrets.token_hex(4))
    work()

    assert credit_left(organization) == ([(0, 10**10), (10**10, 0)], 10**10)


def test_disputed_credit_cannot_be_spent_though_the_dispute_was_heard_of_first(standin, organization, work):
    plans.change(organization.id, "prepaid", actor=Actor("system", "test"))
    buy_credit(standin, organization, card="4000000000000259")
    work()
    with as_operator():
        dispute = StripeEvent.objects.get(type="charge.dispute.created")
        assert (dispute.processed_at, "not given yet" in dispute.error) == (None, True)
        StripeEvent.objects.filter(event_id=dispute.event_id).update(next_try_at=timezone.now())
    events.process_due()

    assert credit_left(organization) == ([(0, 10**10)], 0)


def test_a_refund_of_anything_else_ends_no_credit(standin, organization, work):
    buy_credit(standin, organization)
    buy(standin, organization)
    work()
    [fee] = [row for row in standin.world.store.all("payment_intent") if "credit_nano" not in row["metadata"]]
    invoices.refund(payment=fee["id"], amount_minor=100, key=secrets.token_hex(4))
    work()

    assert credit_left(organization)[0] == [(10**10, 0)]


@pytest.mark.parametrize("card", [LATER, "4000000000000002"])
def test_a_payment_that_fails_grants_nothing(standin, organization, work, card):
    urls = {"success_url": "https://m.test", "cancel_url": "https://m.test"}
    page = payments.checkout_credit(organization.id, 10**10, email="a@example.org", key="k", **urls)
    assert standin.click(page.url, card=card, do="pay")[0] == 402
    standin.advance(90_000)
    work()

    assert credit_of(organization) == []


@pytest.mark.parametrize("amount", [0, -1, 1, 999_999_999, 1_000_000_001, 100_001 * 10**9])
def test_an_amount_that_no_card_can_pay_is_refused(standin, organization, amount):
    with pytest.raises(ValidationFailed):
        payments.checkout_credit(
            organization.id, amount, email="a@example.org", success_url="https://m.test", cancel_url="https://m.test", key="k"
        )


def test_a_customer_of_nobody_changes_nothing(standin):
    stranger = customers.create_customer(organization=secrets.token_hex(16), email="s@example.org", name="S")
    nobody = customers.create_customer(organization="no id", email="n@example.org", name="N")

    assert following.follow(stranger.id) is None
    assert following.follow(nobody.id) is None


def test_an_organization_has_one_customer_however_many_ask(standin, organization):
    assert len(set(at_once(*[lambda: _customer(organization)] * 4))) == 1


def test_a_plan_that_is_not_public_is_sold_to_whom_an_operator_has_put_on_it(standin, organization, work):
    with pytest.raises(NotFound):
        buy(standin, organization, plan="custom")

    plans.change(organization.id, "custom", actor=Actor("operator", "o"))
    buy(standin, organization, plan="custom")
    work()

    assert (current(organization).plan_version.plan_id, current(organization).stripe_status) == ("custom", "active")


def test_who_has_paid_in_one_window_cannot_pay_in_another_before_we_hear_of_it(standin, organization, work):
    buy(standin, organization)

    with pytest.raises(StateConflict, match="already"):
        buy(standin, organization)


def test_whose_subscription_has_ended_chooses_freely_again(standin, organization, work):
    buy(standin, organization)
    work()
    with pytest.raises(StateConflict, match="just begun"):  # whoever had seen none before
        plans.choose(organization.id, "prepaid", actor=Actor("user", "u"))
    customers.cancel_subscription(current(organization).stripe_subscription, at_period_end=True)
    standin.pass_month(hours=1)
    work()
    assert current(organization).plan_version.plan_id == "free"

    plans.choose(organization.id, "prepaid", actor=Actor("user", "u"))

    assert current(organization).plan_version.plan_id == "prepaid"


def test_what_has_no_customer_is_nobodys(organization):
    assert following.follow("") is None
