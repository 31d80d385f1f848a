"""An invoice that became final without its usage being found right: it is found, named, and corrected once."""

from datetime import timedelta

import pytest

from billing import alarms
from billing.caps import credit
from billing.invoicing import closing, correcting, push, settling
from billing.invoicing.reconcile import reconcile_all
from billing.models import CreditMonth, Invoice, Subscription
from billing.stripe import customers, following
from billing.stripe import invoices as stripe_invoices
from saas.lib import clock
from saas.lib.money import NANO
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tenants.models import AuditEvent
from tests.stripe.usage.test_settling import adjustments, due_of, usage_lines
from tests.stripe.usage.world import HOUR, killed_after


def final_by_itself(world, nano):
    """The month is over, and nobody held its draft: the row of the invoice, that Stripe has made final."""
    if nano:
        world.use(world.this_hour - HOUR, nano)
    world.move_to(world.end_of_month)
    world.standin.told()
    world.move(hours=2)
    row = settling.heard_of(customers.retrieve_subscription(world.stripe.id).latest_invoice)
    assert row.status == "paid"
    assert row.id in settling.due()
    return row


@pytest.fixture
def unheld(world):
    """`unheld()`: such an invoice, which has been looked at when all was sealed. 25 dollars were used."""

    def do(nano=25 * NANO):
        row = final_by_itself(world, nano)
        world.sealed_until(world.end_of_month)
        settling.settle(row.id)
        row.refresh_from_db(using="ops")
        return row

    return do


def ask(operator, row):
    answer = operator.post("/admin/billing/invoice/", {"action": "put_right", "_selected_action": [str(row.id)]})
    assert answer.status_code == 302
    row.refresh_from_db(using="ops")


def all_of(world):
    found = stripe_invoices.invoices_of(world.stripe.customer)
    return [stripe_invoices.retrieve_invoice(each.id) for each in found]


def corrections(world):
    return [each for each in all_of(world) if correcting.MARK in each.metadata]


def compared(world):
    return next(run for run in reconcile_all(world.tenant) if run.period_end == world.end_of_month)


def test_it_is_found_and_an_operator_is_called(world, unheld, caplog):
    before = alarms.count()["invoices"]

    row = unheld()

    assert (row.settlement, row.next_check_at) == ("unbilled", None)
    assert alarms.count()["invoices"] == before + 1
    assert f"has become final without {due_of(25, world.part())} (USD)" in caplog.text
    assert corrections(world) == []
    world.move(hours=2)
    run = compared(world)
    assert (run.verdict, run.ledger, run.stripe, run.draft) == ("missing", 25_000_000, 25_000_000, 0)


def test_once_asked_for_what_is_missing_is_billed_by_an_invoice_of_its_own(world, unheld, operator):
    row = unheld()
    ask(operator, row)
    assert row.settlement == "correcting"

    assert settling.settle(row.id)

    [made] = corrections(world)
    assert made.status != "draft"
    assert sum(line.amount_minor for line in adjustments(made)) == made.total_minor == due_of(25, world.part())
    row.refresh_from_db(using="ops")
    assert (row.settlement, row.usage_units) == ("corrected", 25_000_000)
    with as_operator():
        assert Invoice.objects.of(world.tenant).get(stripe_invoice=made.id).settlement == "settled"
        [event] = AuditEvent.objects.of(world.tenant).filter(action="invoice.correction_asked")
    assert (event.actor_kind, event.target) == ("operator", row.stripe_invoice)
    world.move(hours=2)
    run = compared(world)
    assert (run.verdict, run.ledger, run.draft) == ("match", 25_000_000, 25_000_000)


def test_asked_for_again_nothing_is_billed_twice(world, unheld, operator):
    row = unheld()
    for _ in range(2):
        ask(operator, row)
        settling.settle(row.id)
    with as_operator():
        Invoice.objects.of(world.tenant).filter(id=row.id).update(settlement="correcting", next_check_at=clock.now())

    assert settling.settle(row.id)

    assert [made.total_minor for made in corrections(world)] == [due_of(25, world.part())]


@pytest.mark.parametrize("step", ["create_invoice", "add_invoice_item", "finalize_invoice", "_corrected"])
def test_who_is_killed_leaves_it_to_the_next_and_nothing_is_twice(world, unheld, operator, step):
    row = unheld()
    ask(operator, row)
    owner = correcting if step == "_corrected" else stripe_invoices
    killed_after(owner, step, lambda: settling.settle(row.id))
    world.move(minutes=6)

    assert settling.settle(row.id)

    assert [made.total_minor for made in corrections(world)] == [due_of(25, world.part())]


def test_credit_that_it_should_have_taken_off_is_given(world, unheld, operator):
    credit.grant(world.tenant, amount_nano=4 * NANO, category="promotional", reason="welcome", actor=SYSTEM)
    with as_operator():
        month = f"{world.this_hour:%Y-%m}"
        used = {"burnt_nano": 4 * NANO, "off_nano": 4 * NANO}
        CreditMonth.objects.update_or_create(organization_id=world.tenant, period=month, defaults=used)
    row = unheld()
    ask(operator, row)

    assert settling.settle(row.id)

    assert [made.total_minor for made in corrections(world)] == [due_of(25, world.part()) - 400]


def test_without_usage_it_is_right(world, unheld):
    assert unheld(0).settlement == "settled"


def test_what_is_void_waits_for_nobody(world, unheld, standin):
    row = unheld()
    stored = standin.world.store.get("invoice", row.stripe_invoice)
    standin.world.store.save(stored | {"status": "void"})

    assert settling.heard_of(row.stripe_invoice).settlement == "none"


def test_where_the_subscription_ended_too_nothing_is_billed_twice(world, unheld, operator):
    customers.cancel_subscription(world.stripe.id, at_period_end=True)
    row = unheld()
    following.follow(world.stripe.customer)
    with as_operator():
        [ended] = Subscription.objects.of(world.tenant).exclude(closing_at=None)
    assert closing.close(ended.id)

    ask(operator, row)
    assert settling.settle(row.id)

    charged = sum(line.amount_minor for each in all_of(world) for line in usage_lines(each) + adjustments(each))
    assert charged == due_of(25, world.part())
    world.move(hours=2)
    assert compared(world).verdict == "match"


def test_it_waits_until_the_month_is_sealed(world, monkeypatch):
    row = final_by_itself(world, 25 * NANO)
    monkeypatch.setattr(push, "sealed_until", lambda: world.end_of_month - HOUR)

    assert settling.settle(row.id) is False

    row.refresh_from_db(using="ops")
    assert row.settlement == "waiting"


def test_a_month_whose_invoice_nobody_has_heard_of_is_named(world):
    world.use(world.this_hour - HOUR, 25 * NANO)
    world.move_to(world.end_of_month + timedelta(hours=1))
    push.push(world.tenant)
    assert compared(world).verdict == "match"
    world.move(hours=12)

    run = compared(world)

    assert (run.verdict, run.stripe, run.draft) == ("missing", 25_000_000, 0)
