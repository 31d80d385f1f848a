"""Usage that Stripe has accepted and then not counted, without our hearing of it: a person has it told anew, once."""

import pytest

from billing.invoicing import push
from billing.invoicing.reconcile import reconcile_all
from tenants.databases import as_operator
from tenants.models import AuditEvent
from tests.stripe.usage.world import HOUR


@pytest.fixture
def missing(world, standin):
    """`missing()`: of an hour's two rows, 5000 and 3000 units, Stripe counts but the second; both were accepted a day ago."""
    hour = world.this_hour - HOUR
    standin.fault("reject_usage")
    world.use(hour, 5_000_000)
    push.push(world.tenant)
    world.use(hour, 3_000_000)
    push.push(world.tenant)
    assert [row.state for row in world.rows()] == ["accepted", "accepted"]
    assert [value for _, value in world.counted()] == [3000]
    return hour


def tell_anew(operator, *rows, reason="its hour is missing"):
    ids = [str(row.id) for row in rows]
    body = {"action": "tell_it_anew", "_selected_action": ids, "reason": reason}
    assert operator.post("/admin/billing/stripepush/", body).status_code == 302


def states(world):
    return [row.state for row in world.rows()]


def verdict(world):
    [run] = reconcile_all(world.tenant)
    return run.verdict


def test_a_day_later_it_is_told_anew_and_by_whom_and_why_is_noted(world, missing, operator):
    world.move(hours=25)
    assert verdict(world) == "missing"
    lost = world.rows()[0]

    tell_anew(operator, lost)
    push.push(world.tenant)

    assert states(world) == ["replaced", "accepted", "accepted"]
    assert sorted(value for _, value in world.counted()) == [3000, 5000]
    assert len({row.identifier for row in world.rows()}) == 3
    with as_operator():
        [event] = AuditEvent.objects.of(world.tenant).filter(action="usage_push.decided")
    assert (event.actor_kind, event.target) == ("operator", lost.identifier)
    assert event.details == {"state": "replaced", "reason": "its hour is missing"}
    world.move(hours=2)
    assert verdict(world) == "match"


def test_nothing_is_told_anew_while_sums_may_be_late(world, missing, operator):
    world.move(hours=23)
    assert verdict(world) == "missing"

    tell_anew(operator, world.rows()[0])
    assert states(world) == ["accepted", "accepted"]
    world.move(hours=2)
    tell_anew(operator, world.rows()[0])  # what was compared is older than a day after it
    assert states(world) == ["accepted", "accepted"]


def test_without_a_reason_nothing_is_told_anew(world, missing, operator):
    world.move(hours=25)
    verdict(world)

    tell_anew(operator, world.rows()[0], reason=" ")

    assert states(world) == ["accepted", "accepted"]


def test_never_more_is_told_anew_than_is_missing(world, missing, operator):
    world.move(hours=25)
    verdict(world)

    tell_anew(operator, *world.rows())
    push.push(world.tenant)
    tell_anew(operator, *world.rows())
    push.push(world.tenant)

    assert sum(value for _, value in world.counted()) == 8000
    assert states(world).count("replaced") == 1


def test_what_is_there_is_not_told_anew(world, operator):
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)
    world.move(hours=25)
    assert verdict(world) == "match"

    tell_anew(operator, *world.rows())

    assert states(world) == ["accepted"]


def test_the_page_asks_for_the_reason(world, missing, operator):
    assert b'name="reason"' in operator.get("/admin/billing/stripepush/").content
