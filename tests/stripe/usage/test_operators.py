"""What waits for an operator: it is counted for /metrics, and the admin's decisions are carried out and noted."""

from uuid import uuid4

import pytest

from billing import alarms, tasks
from billing.invoicing import push
from billing.invoicing.reconcile import reconcile_all
from billing.models import Invoice, StripePush
from billing.sale import plans
from saas.lib import clock
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tenants.models import AuditEvent
from tests.stripe.usage.world import HOUR


@pytest.fixture
def refused(world, standin):
    """A row that waits for a person."""
    world.use(world.this_hour - HOUR, 5_000_000)
    standin.fault("reject_usage")
    push.push(world.tenant)
    with as_operator():
        StripePush.objects.of(world.tenant).update(state="rejected")
    [row] = world.rows()
    return row


def decide(operator, row, action):
    return operator.post("/admin/billing/stripepush/", {"action": action, "_selected_action": [str(row.id)]})


def test_what_waits_is_counted(world, refused, lanes):
    before = alarms.count()
    reconcile_all(world.tenant)
    with as_operator():
        Invoice.objects.create(
            organization_id=world.tenant, stripe_invoice=f"in_{uuid4().hex}", stripe_customer="cus_1", status="draft",
            currency="USD", total_minor=1, due_minor=1, paid_minor=0, settlement="mismatch",
        )  # fmt: skip

    counts = alarms.report()

    assert counts["pushes"] >= 1
    assert counts["differences"] == before["differences"] + 1
    assert counts["invoices"] == before["invoices"] + 1
    assert {kind.decode(): int(count) for kind, count in lanes.hgetall("billing:alarms").items()} == counts


def test_what_stands_still_is_counted(world, standin):
    from billing.models import StripeEvent, Subscription

    world.move(days=100)  # away from what other tests have compared
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)
    before = alarms.count()
    with as_operator():
        StripePush.objects.of(world.tenant).update(state="due", created_at=clock.now() - 2 * HOUR)
        StripeEvent.objects.create(event_id=f"evt_{uuid4().hex}", type="invoice.paid", attempts=3)
        StripeEvent.objects.create(event_id=f"evt_{uuid4().hex}", type="invoice.paid", attempts=2)
        plans.change(world.tenant, "pro", actor=SYSTEM)
        Subscription.objects.of(world.tenant).current().update(since=clock.now() - 3 * HOUR, stripe_status="active")
    counts = alarms.count()

    assert counts["late_pushes"] == before["late_pushes"] + 1
    assert counts["events"] == before["events"] + 1
    assert counts["uncompared"] == 1
    reconcile_all(world.tenant)
    assert alarms.count()["uncompared"] == 0


def test_a_person_may_say_that_it_arrived(world, refused, operator):
    assert decide(operator, refused, "it_arrived").status_code == 302

    [row] = world.rows()
    assert row.state == "accepted"
    with as_operator():
        [event] = AuditEvent.objects.of(world.tenant).filter(action="usage_push.decided")
    assert (event.actor_kind, event.target, event.details) == ("operator", row.identifier, {"state": "accepted"})


def test_a_person_may_have_the_same_usage_told_anew(world, refused, operator):
    decide(operator, refused, "tell_it_anew")
    push.push(world.tenant)

    assert [row.state for row in world.rows()] == ["replaced", "accepted"]
    assert [value for _, value in world.counted()] == [5000]


def test_no_decision_touches_what_stripe_has_accepted(world, operator):
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)

    decide(operator, world.rows()[0], "tell_it_anew")

    assert [row.state for row in world.rows()] == ["accepted"]


def test_who_has_something_new_is_found(world):
    assert world.tenant not in push.waiting()
    world.use(world.this_hour - HOUR, 5_000_000)
    assert world.tenant in push.waiting()

    tasks.push_organization(str(world.tenant))

    assert world.tenant not in push.waiting()
    assert [value for _, value in world.counted()] == [5000]


def test_a_stripe_that_is_away_stops_no_task(world, standin, caplog):
    world.use(world.this_hour - HOUR, 5_000_000)
    standin.server.end()
    try:
        tasks.push_organization(str(world.tenant))
        tasks.reconcile_organization(str(world.tenant))
    finally:
        standin.start(standin.server.server_port)

    assert "waits for Stripe" in caplog.text
    assert world.tenant in push.waiting()
