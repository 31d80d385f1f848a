"""A plan is changed in a month's last hour, and Stripe's events come late: what is told is on the month's invoice."""

import pytest

from billing.invoicing import periods, push, settling
from billing.invoicing.reconcile import reconcile_all
from billing.stripe import customers, following, invoices
from saas.lib import clock
from tenants.databases import as_operator
from tests.stripe.usage.test_correcting import ask
from tests.stripe.usage.test_settling import held
from tests.stripe.usage.world import HOUR


def change(world, prices, on, name):
    at = clock.now().replace(microsecond=0)
    customers.change_subscription(world.stripe.id, prices=prices, metadata={}, proration_at=at)
    on(world.tenant, name, at)
    return at


@pytest.fixture
def changed(world, catalogue, on):
    """42 dollars were used before the change, of which Stripe was told 30, and 7 after it; the month is over: its draft."""
    world.use(world.this_hour, 30_000_000_000)
    world.move_to(world.this_hour + HOUR)
    push.push(world.tenant)
    world.move_to(world.end_of_month - HOUR / 2)
    world.use(clock.now(), 12_000_000_000)
    world.move(minutes=10)
    change(world, catalogue["team"], on, "team")
    world.use(clock.now(), 7_000_000_000)
    world.move_to(world.end_of_month)
    world.sealed_until(world.end_of_month)
    [draft] = [found for found in invoices.invoices_of(world.stripe.customer) if found.status == "draft"]
    return draft.id


def units(draft):
    return sum(line.units for line in invoices.retrieve_invoice(draft).lines if line.units > 1)


def test_who_tells_before_the_invoice_is_heard_of_tells_it_where_it_counts(world, changed):
    push.push(world.tenant)

    assert settling.settle(held(world, changed).id)
    assert units(changed) == 49_000_000


def test_also_after_another_change_in_the_next_month(world, changed, catalogue, on):
    world.move(minutes=5)
    change(world, catalogue["pro"], on, "pro")
    push.push(world.tenant)

    assert settling.settle(held(world, changed).id)
    assert units(changed) == 49_000_000


@pytest.fixture
def stuck(world, changed, monkeypatch):
    """The same told where no price counts it any more: the invoice's row, a mismatch."""
    with monkeypatch.context() as patched:
        patched.setattr(periods, "_changes", lambda row, found: [])
        push.push(world.tenant)
    row = held(world, changed)
    assert settling.settle(row.id) is False
    world.move(hours=2)
    assert settling.settle(row.id) is False
    row.refresh_from_db(using="ops")
    assert (row.settlement, units(changed)) == ("mismatch", 30_000_000)
    return row


def test_an_operator_frees_one_that_is_stuck(world, changed, stuck, operator):
    ask(operator, stuck)

    assert settling.settle(stuck.id) is False  # told anew, and to be compared again
    world.move(minutes=1)
    assert settling.settle(stuck.id)

    assert invoices.retrieve_invoice(changed).status != "draft"
    assert units(changed) == 49_000_000
    assert sum(value for _, value in world.counted()) == 49_000_000
    assert sum(row.value for row in world.rows()) == sum(row.nano for row in world.rows()) // 1000 == 49_000_000
    world.move(hours=2)
    run = next(run for run in reconcile_all(world.tenant) if run.period_end == world.end_of_month)
    assert (run.verdict, run.draft) == ("match", 49_000_000)


def test_asked_for_twice_nothing_is_told_twice(world, changed, stuck, operator, standin):
    standin.fault("late_summaries", value=600)
    for _ in range(3):
        ask(operator, stuck)
        settling.settle(stuck.id)
        with as_operator():
            type(stuck).objects.of(world.tenant).filter(id=stuck.id).update(settlement="mismatch")
    world.move(minutes=11)
    with as_operator():
        type(stuck).objects.of(world.tenant).filter(id=stuck.id).update(settlement="waiting")

    assert settling.settle(stuck.id)
    assert units(changed) == 49_000_000
    assert len([value for _, value in world.counted() if value < 0]) == 1


def test_who_is_killed_while_moving_leaves_it_to_the_next(world, changed, stuck, operator, monkeypatch):
    ask(operator, stuck)
    send_due, calls = push.send_due, []

    def dies_the_second_time(tenant):
        calls.append(tenant)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return send_due(tenant)

    with monkeypatch.context() as patched:
        patched.setattr(push, "send_due", dies_the_second_time)
        with pytest.raises(KeyboardInterrupt):
            settling.settle(stuck.id)
    for _ in range(2):
        world.move(minutes=6)
        settling.settle(stuck.id)

    assert invoices.retrieve_invoice(changed).status != "draft"
    assert units(changed) == 49_000_000


def test_what_differs_otherwise_is_not_moved(world, changed, stuck, operator, standin):
    standin.world.store.db.execute("DELETE FROM usage WHERE value = 30000000")
    ask(operator, stuck)

    assert settling.settle(stuck.id) is False

    stuck.refresh_from_db(using="ops")
    assert stuck.settlement == "mismatch"
    assert all(row.value > 0 for row in world.rows())


def test_following_writes_down_when_the_prices_changed(world, changed):
    following.follow(world.stripe.customer)
    [row] = periods.subscriptions_of(world.tenant)
    [period] = periods.periods_of(row, since=world.end_of_month - HOUR, until=world.end_of_month)

    assert world.end_of_month - HOUR / 2 < period.told_from < world.end_of_month
