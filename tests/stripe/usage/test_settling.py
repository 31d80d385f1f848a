"""An invoice with usage becomes final only when ledger, pushed, Stripe's sums and the invoice agree."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections

from billing import stripe_gateway
from billing.invoicing import push, settling
from billing.invoicing.reconcile import reconcile_all
from billing.models import Invoice, Subscription
from billing.stripe import customers, invoices
from saas.lib import clock
from tenants.databases import as_operator
from tests.stripe.usage.test_push import EVENTS, event
from tests.stripe.usage.world import HOUR
from tests.waiting import until


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(stripe_gateway, "BUSY_PAUSE", 0.001)


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
    assert row.total_minor == found.total_minor == 1500 + 5000


def test_what_was_not_pushed_yet_is_pushed_first(world, month):
    row = held(world, month)
    assert world.counted() == []

    assert settling.settle(row.id)

    assert sum(value for _, value in world.counted()) == 25_000_000


def test_it_waits_until_the_period_is_sealed(world, month, monkeypatch):
    row = held(world, month)
    monkeypatch.setattr(settling, "sealed_until", lambda: world.this_hour - HOUR)

    assert settling.settle(row.id) is False

    assert invoices.retrieve_invoice(month).status == "draft"
    assert settling.due() == []
    world.move(minutes=1)
    assert settling.due() == [row.id]


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
    monkeypatch.setattr(settling, "sealed_until", lambda: None)
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

    assert invoices.retrieve_invoice(draft.id).total_minor == 500  # five dollars beyond what was included


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


@pytest.mark.parametrize(("granted", "taken_off"), [(4_000_000_000, 400), (40_000_000_000, 1500)])
def test_credit_that_was_used_is_taken_off_once(world, give, granted, taken_off):
    hour = world.this_hour - HOUR
    world.use(hour, 25_000_000_000)
    give(granted, 25_000_000_000)
    end = (hour + timedelta(days=31)).replace(day=1, hour=0)
    world.move_to(end)
    world.sealed_until(end)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]
    row = held(world, draft.id)
    [period] = settling._periods(row, draft)
    push.push(world.tenant)
    settling.invoice_credit.take_off(invoices.retrieve_invoice(draft.id), period)  # and killed before the rest

    assert settling.settle(row.id)

    found = invoices.retrieve_invoice(draft.id)
    assert [line.amount_minor for line in found.lines if line.description == "Credit used"] == [-taken_off]
    assert found.total_minor == 5000 + 1500 - taken_off


def test_who_is_killed_after_making_it_final_leaves_it_to_the_next(world, month):
    row = held(world, month)
    settling._compare(row, invoices.retrieve_invoice(month))
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
