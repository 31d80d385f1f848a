"""What was used until a subscription's end, or until a plan that charges usage was left, is invoiced once and wholly."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections, transaction

from billing.caps import credit
from billing.invoicing import closing, invoice_credit, invoices, periods, push, settling, usage_charge
from billing.invoicing.models import PushState
from billing.models import CreditMonth, Invoice, StripePush, Subscription
from billing.stripe import catalogue as stripe_catalogue
from billing.stripe import customers, following
from billing.stripe import invoices as stripe_invoices
from saas.lib import clock
from saas.lib.money import NANO
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tests.stripe.usage.test_settling import adjustments, draft_of_the_month, due_of, usage_lines
from tests.stripe.usage.world import HOUR, killed_after


@pytest.fixture
def ended(world):
    """Canceled at once, 20 minutes into an hour: twelve dollars were told until then, eight not yet. When it ended."""
    world.use(world.this_hour, 12_000_000_000)
    world.move(hours=1)
    push.push(world.tenant)
    world.move(hours=1, minutes=20)
    world.use(clock.now() - timedelta(minutes=5), 8_000_000_000)
    customers.cancel_subscription(world.stripe.id, at_period_end=False)
    following.follow(world.stripe.customer)
    world.journal(clock.now() + timedelta(seconds=1), 3_000_000_000)  # on Free
    return customers.retrieve_subscription(world.stripe.id).ended_at


def row_of(world):
    with as_operator():
        [row] = Subscription.objects.of(world.tenant).exclude(closing_at=None)
    return row


def of_usage(world):
    """What all invoices charge for usage, in cents."""
    found = [stripe_invoices.retrieve_invoice(each.id) for each in stripe_invoices.invoices_of(world.stripe.customer)]
    return sum(line.amount_minor for each in found for line in usage_lines(each) + adjustments(each))


def last_of(world):
    found = stripe_invoices.invoices_of(world.stripe.customer)
    return [each for each in found if each.metadata.get(closing.MARK) == world.stripe.id]


def seal(world):
    world.move_to(world.this_hour + HOUR)
    world.sealed_until(world.this_hour)


def test_what_was_used_in_the_last_hour_is_on_a_last_invoice(world, ended):
    assert of_usage(world) < 1200  # Stripe knew of twelve dollars, and has taken off all of the ten that the plan includes
    row = row_of(world)
    seal(world)
    world.move(minutes=1)
    assert row.id in closing.due()

    assert closing.close(row.id)

    due = due_of(20, world.part(end=ended))
    assert due > 1900
    assert of_usage(world) == due
    [last] = last_of(world)
    assert last.status != "draft"
    assert row.id not in closing.due()
    with as_operator():
        shown = Invoice.objects.of(world.tenant).get(stripe_invoice=last.id)
    assert (shown.settlement, shown.total_minor) == ("settled", due - 200)
    charged = [(part["usage"], part["amount"]) for part in shown.usage_parts if part["usage"] != "0.00"]
    assert charged == [("20.00", f"{due / 100:.2f}")]  # the two clocks may differ by a moment, which is Free's then


def test_it_waits_until_the_hour_of_the_end_is_sealed(world, ended, monkeypatch):
    row = row_of(world)
    monkeypatch.setattr(push, "sealed_until", lambda: world.this_hour)

    assert closing.close(row.id) is False

    assert last_of(world) == []
    assert row.id not in closing.due()
    world.move(minutes=1)
    assert row.id in closing.due()


@pytest.mark.parametrize("step", ["create_invoice", "add_invoice_item", "finalize_invoice", "write"])
def test_who_is_killed_leaves_it_to_the_next_and_nothing_is_twice(world, ended, step):
    row, owner = row_of(world), invoices if step == "write" else stripe_invoices
    seal(world)
    killed_after(owner, step, lambda: closing.close(row.id))
    world.move(minutes=6)

    assert closing.close(row.id)

    assert len(last_of(world)) == 1
    assert of_usage(world) == due_of(20, world.part(end=ended))


def test_where_invoices_are_sent_the_last_one_is_too(world, ended):
    row = row_of(world)
    stored = world.standin.world.store.get("subscription", world.stripe.id)
    world.standin.world.store.save(stored | {"collection_method": "send_invoice", "days_until_due": 14})
    seal(world)

    assert closing.close(row.id)

    [last] = last_of(world)
    assert last.due_at is not None
    assert timedelta(days=14) - timedelta(minutes=1) < last.due_at - clock.now() <= timedelta(days=14)


def test_of_two_that_close_one_does(world, ended):
    row = row_of(world)
    seal(world)

    assert [closing.close(row.id), closing.close(row.id)] == [True, False]


def test_what_ends_with_its_month_has_all_on_the_months_invoice(world):
    world.use(world.this_hour, 15_000_000_000)
    customers.cancel_subscription(world.stripe.id, at_period_end=True)
    following.follow(world.stripe.customer)
    held, draft = draft_of_the_month(world)
    following.follow(world.stripe.customer)
    row = row_of(world)
    assert closing.close(row.id) is False  # the month's invoice is not final
    assert settling.settle(held.id)
    world.move(minutes=1)

    assert closing.close(row.id)

    assert last_of(world) == []
    assert of_usage(world) == due_of(15, world.part()) == stripe_invoices.retrieve_invoice(draft).total_minor


def test_without_usage_there_is_no_last_invoice(world):
    customers.cancel_subscription(world.stripe.id, at_period_end=False)
    following.follow(world.stripe.customer)
    row = row_of(world)
    seal(world)

    assert closing.close(row.id)
    assert last_of(world) == []


def test_an_end_that_nobody_told_is_noticed_when_another_subscription_runs(world, subscribe):
    customers.cancel_subscription(world.stripe.id, at_period_end=False)
    world.move(minutes=5)
    subscribe()
    following.follow(world.stripe.customer)

    row = row_of(world)

    assert row.stripe_subscription == world.stripe.id


@pytest.fixture
def flat(catalogue):
    """A price of a fee, without one for usage."""
    stripe_catalogue.create_product(id="plan_flat", name="Flat", metadata={})
    fee = stripe_catalogue.create_price(
        product="plan_flat", lookup_key="flat:fee", currency="USD", minor=Decimal(2000), metadata={}
    )
    return [(fee.id, False)]


def test_usage_before_a_plan_that_charges_none_is_on_the_months_invoice(world, flat, on):
    world.use(world.this_hour, 12_000_000_000)
    world.move(hours=2, minutes=20)
    change = clock.now().replace(microsecond=0)
    world.use(change - timedelta(minutes=5), 8_000_000_000)  # Stripe has not been told of any of it
    customers.change_subscription(world.stripe.id, prices=flat, metadata={}, proration_at=change)
    on(world.tenant, "flat", change)
    world.use(change + timedelta(minutes=5), 30_000_000_000)
    row, draft = draft_of_the_month(world)

    assert settling.settle(row.id)

    found = stripe_invoices.retrieve_invoice(draft)
    assert usage_lines(found) == []
    assert [line.amount_minor for line in adjustments(found)] == [due_of(20, world.part(end=change))]
    world.use(world.end_of_month + HOUR, 30_000_000_000)
    assert usage_charge.MARK not in str(_next_month(world))


def _next_month(world):
    """The lines of the next month's invoice: of a month in which no plan charged usage."""
    end = (world.end_of_month + timedelta(days=31)).replace(day=1)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in stripe_invoices.invoices_of(world.stripe.customer) if found.status == "draft"]
    row = settling.heard_of(draft.id)
    assert settling.settle(row.id)
    return stripe_invoices.retrieve_invoice(draft.id).lines


def test_nothing_is_invoiced_while_what_was_told_is_not_what_stripe_counts(world, ended, caplog):
    """An operator is called, and once it is right the last invoice is made."""
    row = row_of(world)
    seal(world)
    push.push(world.tenant)
    with as_operator():
        told = StripePush.objects.of(world.tenant).filter(state=PushState.ACCEPTED).first()
        StripePush.objects.of(world.tenant).filter(id=told.id).update(state=PushState.REJECTED)

    assert not closing.close(row.id)

    assert last_of(world) == []
    assert "Stripe and the ledger differ" in caplog.text
    with as_operator():
        StripePush.objects.of(world.tenant).filter(id=told.id).update(state=PushState.ACCEPTED)
    world.move(minutes=11)
    assert closing.close(row.id)
    assert of_usage(world) == due_of(20, world.part(end=ended))


@pytest.fixture
def used_credit(world, ended):
    """Thirty dollars of credit have paid for usage of the month."""
    credit.grant(world.tenant, amount_nano=30 * NANO, category="promotional", reason="welcome", actor=SYSTEM)
    with as_operator(), connections["ops"].cursor() as cursor, transaction.atomic(using="ops"):
        credit.settle(cursor, world.tenant)
        CreditMonth.objects.update_or_create(
            organization_id=world.tenant, period=f"{ended:%Y-%m}", defaults={"burnt_nano": 30 * NANO, "off_nano": 30 * NANO}
        )


def test_credit_is_taken_off_once_of_the_two_last_invoices_of_a_month(world, ended, used_credit):
    """The ended subscription's last invoice takes what it has charged in all, the next one the rest."""
    row = row_of(world)
    seal(world)
    closing.close(row.id)
    [last] = last_of(world)
    [period] = [each for each in periods.periods_of(row, since=ended - HOUR, until=ended) if each.end == ended]
    first = due_of(20, world.part(end=ended))
    assert [line.amount_minor for line in credit_lines(last)] == [-first]

    other = stripe_invoices.create_invoice(customer=world.stripe.customer, currency="USD", metadata={}, key="other")
    taken = invoice_credit.take_off(other, replace(period, start=ended, end=world.end_of_month), due=5_000)

    assert taken == 3_000 - first


def test_what_the_card_has_paid_although_credit_had_goes_to_the_balance(world, ended, used_credit, standin):
    """Stripe's own invoice of the end has charged two dollars of usage, and knows of no credit."""

    def balance():
        return standin.world.store.get("customer", world.stripe.customer)["balance"]

    before = balance()
    seal(world)
    assert closing.close(row_of(world).id)

    [last] = last_of(world)
    assert last.total_minor == -200
    assert balance() == before - 200


def test_credit_comes_back_also_where_stripe_has_charged_all_of_it(world, ended, used_credit, monkeypatch):
    due = due_of(20, world.part(end=ended))
    charged = [due]
    monkeypatch.setattr(closing.invoice_periods, "charged", lambda each, period: charged.pop() if charged else 0)
    seal(world)

    assert closing.close(row_of(world).id)

    [last] = last_of(world)
    assert last.total_minor == -due


def credit_lines(found):
    return [line for line in stripe_invoices.retrieve_invoice(found.id).lines if line.description == "Credit used"]
