"""An invoice with usage becomes final only when ledger, pushed, Stripe's sums and the invoice agree."""

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from django.db import connections

from billing.invoicing import push, settling, usage_charge
from billing.invoicing.reconcile import reconcile_all
from billing.invoicing.views import shown_with_lines
from billing.models import Invoice, PlanVersion, Subscription
from billing.stripe import customers, invoices
from saas.lib import clock
from tenants.databases import as_operator
from tests.stripe.usage.test_push import EVENTS, event
from tests.stripe.usage.world import HOUR
from tests.waiting import until


@pytest.fixture
def month(world):
    """The month is over, and all of it is sealed: its draft's id. 25 dollars were used, ten of them are included."""
    hour = world.this_hour - HOUR
    world.use(hour, 15_000_000_000)
    world.use(hour + HOUR, 9_999_999_500)
    world.use(hour + 2 * HOUR, 500)
    end = (hour + timedelta(days=31)).replace(day=1, hour=0)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]
    return draft.id


def usage_lines(found):
    return [line for line in found.lines if line.units > 1]


def adjustments(found):
    return [line for line in found.lines if usage_charge.MARK in line.metadata]


def coins(dollars):
    """Cents, half up."""
    return math.floor(dollars * 100 + Fraction(1, 2))


def due_of(dollars, part):
    """What so much usage costs in a part of a month of which ten dollars are included, a whole millionth of them: cents."""
    return coins(max(Fraction(0), dollars - Fraction(math.floor(10**7 * part + Fraction(1, 2)), 10**6)))


def draft_of_the_month(world):
    """The month is over and sealed: its draft, held."""
    world.move_to(world.end_of_month)
    world.sealed_until(world.end_of_month)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]
    return held(world, draft.id), draft.id


def held(world, draft):
    row = settling.heard_of(draft)
    assert row.settlement == "waiting"
    return row


def rows_of(world):
    with as_operator():
        return list(Invoice.objects.of(world.tenant).order_by("invoiced_at"))


def test_a_draft_is_held_until_its_usage_is_found_right(world, month, standin):
    row = held(world, month)
    world.move(hours=5)  # Stripe would have made it final after one
    assert invoices.retrieve_invoice(month).status == "draft"

    assert settling.settle(row.id)

    found = invoices.retrieve_invoice(month)
    assert found.status != "draft"
    assert sum(line.units for line in found.lines if line.units > 1) == world.units_used() == 25_000_000
    row.refresh_from_db(using="ops")
    assert row.settlement == "settled"
    assert row.next_check_at is None
    # Stripe's own tiers include the whole ten dollars; what the plan includes counts for the time on it only.
    assert [line.amount_minor for line in usage_lines(found)] == [0, 1500]
    due = due_of(25, world.part())
    assert due > 1500
    assert [line.amount_minor for line in adjustments(found)] == [due - 1500]
    assert row.total_minor == found.total_minor == due + 5000


def test_what_was_not_pushed_yet_is_pushed_first(world, month):
    row = held(world, month)
    assert world.counted() == []

    assert settling.settle(row.id)

    assert sum(value for _, value in world.counted()) == 25_000_000


def test_it_waits_until_the_period_is_sealed(world, month, monkeypatch):
    row = held(world, month)
    monkeypatch.setattr(push, "sealed_until", lambda: world.this_hour - HOUR)

    assert settling.settle(row.id) is False

    assert invoices.retrieve_invoice(month).status == "draft"
    assert row.id not in settling.due()
    world.move(minutes=1)
    assert row.id in settling.due()


def test_late_summaries_only_delay_it(world, month, standin):
    standin.fault("late_summaries", value=600)
    row = held(world, month)

    assert settling.settle(row.id) is False
    world.move(minutes=11)
    assert settling.settle(row.id)


@pytest.mark.parametrize("wrong", ["missing", "excess"])
def test_a_difference_keeps_it_a_draft_and_calls_an_operator(world, month, standin, caplog, wrong):
    row = held(world, month)
    push.push(world.tenant)
    if wrong == "missing":
        standin.world.store.db.execute("DELETE FROM usage WHERE value > 12000000")
    else:
        standin.ask("POST", EVENTS, event(world, world.rows()[0].hour, 5))
    world.move(hours=2)

    assert settling.settle(row.id) is False

    assert invoices.retrieve_invoice(month).status == "draft"
    row.refresh_from_db(using="ops")
    assert row.settlement == "mismatch"
    assert "stays a draft" in caplog.text


def test_once_it_is_repaired_it_becomes_final(world, month, standin):
    row = held(world, month)
    push.push(world.tenant)
    standin.world.store.db.execute("DELETE FROM usage WHERE value > 12000000")
    world.move(hours=2)
    settling.settle(row.id)
    with as_operator():
        [lost] = [row for row in world.rows() if row.value > 12_000_000]
        type(lost).objects.of(world.tenant).filter(id=lost.id).update(state="replaced")
    world.move(minutes=11)

    assert settling.settle(row.id) or (world.move(hours=1) or settling.settle(row.id))
    assert sum(value for _, value in world.counted()) == 25_000_000


def test_rows_that_no_seal_has_keep_it_a_draft(world, month):
    row = held(world, month)
    world.journal(world.rows()[0].hour if world.rows() else world.this_hour - 48 * HOUR, 7_000)

    assert settling.settle(row.id) is False

    assert invoices.retrieve_invoice(month).status == "draft"


def test_at_the_deadline_an_operator_is_called(world, month, monkeypatch, caplog):
    row = held(world, month)
    monkeypatch.setattr(push, "sealed_until", lambda: None)
    settling.settle(row.id)
    assert "stays a draft" not in caplog.text
    world.move(hours=13)

    settling.settle(row.id)

    assert "stays a draft: unsealed" in caplog.text


def test_nobody_settles_what_another_one_is_still_at(world, month, as_role):
    row = held(world, month)
    other = as_role("ops")
    name = f"stripe {month}"
    other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])  # one that is slower than its lease
    with ThreadPoolExecutor(1) as thread:
        late = thread.submit(settle_and_hang_up, row.id)
        until(lambda: waiting_for_locks(other), what="the second one")
        assert not late.done()
        assert invoices.retrieve_invoice(month).status == "draft"
        other.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
        assert late.result(60)


def settle_and_hang_up(invoice):
    try:
        return settling.settle(invoice)
    finally:
        connections.close_all()  # of this thread


def waiting_for_locks(cursor):
    cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return cursor.fetchone()[0]


def test_of_two_that_settle_one_does(world, month):
    row = held(world, month)

    assert [settling.settle(row.id), settling.settle(row.id)] == [True, False]


def test_hearing_of_it_again_changes_nothing(world, month):
    held(world, month)
    world.move(minutes=1)
    row = held(world, month)
    settling.settle(row.id)

    assert settling.heard_of(month).settlement == "settled"
    assert len([row for row in rows_of(world) if row.stripe_invoice == month]) == 1


def test_the_first_invoice_is_only_written_down(world):
    [first] = invoices.invoices_of(world.stripe.customer)

    row = settling.heard_of(first.id)

    assert (row.status, row.settlement, row.next_check_at) == ("paid", "none", None)
    assert row.total_minor == first.total_minor


def test_a_strangers_invoice_is_not_ours(world, standin):
    stranger = customers.create_customer(organization="0" * 32, email="s@example.org", name="S")
    drafts = standin.ask("POST", "/v1/invoices", {"customer": stranger.id})
    if drafts[0] == 200:
        assert settling.heard_of(drafts[1]["id"]) is None


def test_a_month_without_usage_becomes_final(world):
    end = (world.this_hour + timedelta(days=31)).replace(day=1, hour=0)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]

    assert settling.settle(held(world, draft.id).id)


def test_after_a_change_of_plan_what_was_not_told_yet_is_on_the_invoice_too(world, catalogue):
    hour = world.this_hour
    world.use(hour, 15_000_000_000)
    world.move(hours=2, minutes=20)
    customers.change_subscription(
        world.stripe.id, prices=catalogue["team"], metadata={}, proration_at=clock.now().replace(microsecond=0)
    )
    world.use(clock.now() + timedelta(minutes=1), 7_000_000_000)
    end = (hour + timedelta(days=31)).replace(day=1, hour=0)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]

    assert settling.settle(held(world, draft.id).id)

    lines = invoices.retrieve_invoice(draft.id).lines
    assert sum(line.units for line in lines if line.units > 1) == 22_000_000


def test_the_last_month_of_what_was_canceled_is_settled_too(world):
    hour = world.this_hour
    world.use(hour, 15_000_000_000)
    customers.cancel_subscription(world.stripe.id, at_period_end=True)
    end = (hour + timedelta(days=31)).replace(day=1, hour=0)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]

    assert settling.settle(held(world, draft.id).id)

    assert invoices.retrieve_invoice(draft.id).total_minor == due_of(15, world.part())


def test_what_is_sealed_after_the_invoice_is_named(world, month):
    settling.settle(held(world, month).id)
    world.use(world.rows()[0].hour, 1_000_000)
    push.push(world.tenant)
    world.move(hours=2)

    of_the_month = reconcile_all(world.tenant)[0]

    assert (of_the_month.verdict, of_the_month.ledger, of_the_month.draft) == ("missing", 25_001_000, 25_000_000)


@pytest.fixture
def give(world, ledger_row):
    """`give(nano)`: credit that the month's usage has used up, as the ledger's sums say."""
    from billing.caps import credit
    from tenants.access import SYSTEM

    def do(nano, used):
        credit.grant(world.tenant, amount_nano=nano, category="promotional", reason="welcome", actor=SYSTEM)
        ledger_row(used)

    return do


@pytest.fixture
def ledger_row(world):
    """`ledger_row(nano)`: the month's sum, as the drain would have written it with the rows."""

    def do(nano):
        world.metering.execute(
            "INSERT INTO usage_month (tenant_id, api_key_id, period, calls, amount_nano) VALUES (%s, %s, %s, 1, %s)",
            [str(world.tenant), str(world.tenant), f"{world.this_hour:%Y-%m}", nano],
        )

    return do


@pytest.mark.parametrize(("granted", "taken_off"), [(4_000_000_000, 400), (40_000_000_000, None)])
def test_credit_that_was_used_is_taken_off_once(world, give, granted, taken_off):
    due = due_of(25, world.part())
    taken_off = taken_off or due
    hour = world.this_hour - HOUR
    world.use(hour, 25_000_000_000)
    give(granted, 25_000_000_000)
    end = (hour + timedelta(days=31)).replace(day=1, hour=0)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]
    row = held(world, draft.id)
    push.push(world.tenant)
    settling._charge(row, invoices.retrieve_invoice(draft.id))  # and killed before the rest

    assert settling.settle(row.id)

    found = invoices.retrieve_invoice(draft.id)
    assert [line.amount_minor for line in found.lines if line.description == "Credit used"] == [-taken_off]
    assert len(adjustments(found)) == 1
    assert found.total_minor == 5000 + due - taken_off


def test_who_is_killed_after_making_it_final_leaves_it_to_the_next(world, month):
    row = held(world, month)
    settling._compare(row, invoices.retrieve_invoice(month))
    settling._charge(row, invoices.retrieve_invoice(month))
    invoices.finalize_invoice(month)

    assert settling.settle(row.id)

    row.refresh_from_db(using="ops")
    assert (row.settlement, row.next_check_at) == ("settled", None)


def test_usage_of_a_period_that_nobody_knows_stays_a_draft(world, month, caplog):
    row = held(world, month)
    with as_operator():
        Subscription.objects.of(world.tenant).update(stripe_subscription="sub_another")

    assert settling.settle(row.id) is False

    assert invoices.retrieve_invoice(month).status == "draft"
    row.refresh_from_db(using="ops")
    assert row.settlement == "mismatch"
    assert "no period that is known" in caplog.text


# --- what is due for usage


def test_a_change_of_plan_includes_nothing_twice(world, catalogue, on):
    """Twenty dollars on Pro, thirty on Team, each of which includes ten a month: of each a part is included."""
    hour = world.this_hour
    world.use(hour, 20_000_000_000)
    world.move(days=5)
    change = clock.now().replace(microsecond=0)
    customers.change_subscription(world.stripe.id, prices=catalogue["team"], metadata={}, proration_at=change)
    on(world.tenant, "team", change)
    world.use(change + timedelta(minutes=1), 30_000_000_000)
    row, draft = draft_of_the_month(world)

    assert settling.settle(row.id)

    found = invoices.retrieve_invoice(draft)
    first, second = world.part(end=change), world.part(start=change)
    due = due_of(20, first) + due_of(30, second)
    assert sum(line.amount_minor for line in usage_lines(found) + adjustments(found)) == due
    assert sum(line.amount_minor for line in usage_lines(found)) < due  # Stripe has included ten dollars more than once
    row.refresh_from_db(using="ops")
    assert [(part["usage"], part["amount"]) for part in row.usage_parts] == [
        ("20.00", f"{due_of(20, first) / 100:.2f}"),
        ("30.00", f"{due_of(30, second) / 100:.2f}"),
    ]
    assert f"on Pro: {float(10 * first):.2f} included" in adjustments(found)[0].description


def test_a_draft_that_changes_is_put_right_anew_by_the_same_item(world, standin):
    """Eight dollars, of which Stripe charges nothing; then thirteen, of which it charges three."""
    hour = world.this_hour
    world.use(hour, 8_000_000_000)
    row, draft = draft_of_the_month(world)
    push.push(world.tenant)
    settling._charge(row, invoices.retrieve_invoice(draft))  # and killed
    before = [line.amount_minor for line in adjustments(invoices.retrieve_invoice(draft))]
    world.use(hour, 5_000_000_000)
    world.move(minutes=10)

    assert settling.settle(row.id)

    found = invoices.retrieve_invoice(draft)
    assert before == [due_of(8, world.part())]
    assert [line.amount_minor for line in adjustments(found)] == [due_of(13, world.part()) - 300] != before
    assert len([item for item in standin.ask("GET", "/v1/invoiceitems")[1]["data"] if item["metadata"]]) == 1


def test_a_whole_month_on_one_plan_needs_no_adjustment(world, month):
    settling.settle(held(world, month).id)
    world.use(world.this_hour + HOUR, 25_000_000_000)
    end = (world.end_of_month + timedelta(days=31)).replace(day=1)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]

    assert settling.settle(held(world, draft.id).id)

    found = invoices.retrieve_invoice(draft.id)
    assert adjustments(found) == []
    assert found.total_minor == 1500 + 5000


def test_usage_by_prices_of_a_plan_that_it_is_not_on_stays_a_draft(world, month, on, caplog):
    row = held(world, month)
    with as_operator():
        Subscription.objects.of(world.tenant).current().update(plan_version=PlanVersion.objects.get(plan="free", version=1))

    assert settling.settle(row.id) is False

    assert invoices.retrieve_invoice(month).status == "draft"
    assert "by prices of a plan that the organization is not on" in caplog.text


def test_the_invoice_says_how_its_usage_was_charged(world, month):
    row = held(world, month)
    settling.settle(row.id)
    row.refresh_from_db(using="ops")

    shown = shown_with_lines(row)

    [part] = shown["usage_by_plan"]
    assert (part["usage"], part["amount"]) == ("25.00", f"{due_of(25, world.part()) / 100:.2f}")
    [line] = [line for line in shown["lines"] if line["is_adjustment"]]
    assert line["starts_at"] == f"{world.stripe.created_at:%Y-%m-%dT%H:%M:%SZ}"
    amounts = [Decimal(line["amount"]) for line in shown["lines"] if line["is_usage"] or line["is_adjustment"]]
    assert sum(amounts) == Decimal(part["amount"])


def test_a_plan_that_was_given_before_the_subscription_was_made_is_charged_from_then_on(world):
    given = world.stripe.created_at - timedelta(minutes=80)
    with as_operator():
        Subscription.objects.of(world.tenant).current().update(since=given)
    world.use(given + timedelta(minutes=5), 9_000_000_000)
    world.use(world.this_hour, 11_000_000_000)
    row, draft = draft_of_the_month(world)

    assert settling.settle(row.id)

    found = invoices.retrieve_invoice(draft)
    charged = sum(line.amount_minor for line in usage_lines(found) + adjustments(found))
    assert charged == due_of(20, world.part(start=given))
