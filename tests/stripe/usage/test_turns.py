"""Comparing with Stripe stays within its limits: few requests for each organization and hour, and organizations in turn."""

from collections import Counter
from datetime import timedelta

import pytest

from billing import tasks
from billing.invoicing import push, reconcile, reconcile_turns
from billing.models import ReconRun, StripePushed, Subscription
from saas.lib import clock
from tenants.databases import as_operator
from tests.stripe.usage.world import HOUR

SUMMARIES = "event_summaries"


@pytest.fixture
def two_months(world, monkeypatch):
    """Usage in 150 hours of a month that has ended, of which no invoice is made here, and in 150 of the next."""
    monkeypatch.setattr(reconcile, "INVOICED_WITHIN", timedelta(days=365))
    ends = (world.this_hour + timedelta(days=31)).replace(day=1, hour=0)
    for first in (ends - 200 * HOUR, ends):
        world.move_to(first + 151 * HOUR)
        for number in range(150):
            world.use(first + number * HOUR, 2_000_000)
        push.push(world.tenant)
    world.move(hours=2)
    reconcile_turns.take(10_000)  # the turns of all other tests' too
    return world


def asked(world, act):
    """How often each endpoint is asked by `act()`."""
    before = len(world.standin.requests())
    act()
    return Counter(SUMMARIES if SUMMARIES in row["path"] else row["path"] for row in world.standin.requests()[before:])


def verdicts(world):
    with as_operator():
        return {run.verdict for run in ReconRun.objects.of(world.tenant)}


def test_an_hour_asks_four_times_and_a_day_once_for_each_hour(two_months):
    world = two_months
    whole = asked(world, lambda: tasks.reconcile_organization(str(world.tenant)))
    assert whole[SUMMARIES] == 4  # 150 hours are two pages, of two months
    assert sum(whole.values()) <= 17

    for _ in range(3):
        world.move(hours=1)
        found = asked(world, lambda: tasks.reconcile_organization(str(world.tenant)))
        assert found == {SUMMARIES: 3, f"/v1/subscriptions/{world.stripe.id}": 1}
    assert verdicts(world) == {"match"}
    world.move(hours=24)
    assert asked(world, lambda: tasks.reconcile_organization(str(world.tenant)))[SUMMARIES] == 4


def test_what_is_wrong_in_an_hour_of_long_ago_is_named_nevertheless(two_months):
    world = two_months
    tasks.reconcile_organization(str(world.tenant))
    [(at,)] = world.standin.world.store.db.execute("SELECT at FROM usage ORDER BY at LIMIT 1 OFFSET 5").fetchall()
    world.standin.world.store.db.execute("DELETE FROM usage WHERE at = ?", (at,))
    world.move(hours=1)

    tasks.reconcile_organization(str(world.tenant))

    with as_operator():
        run = ReconRun.objects.of(world.tenant).filter(verdict="missing").get()
    [hour] = run.hours
    assert (hour["verdict"], hour["accepted"], hour["stripe"]) == ("missing", 2000, 0)


@pytest.fixture
def subscribers(world, make_organization):
    """Five organizations with a subscription that were never compared; all others have had their turn."""
    made = [make_organization().id for _ in range(5)]
    world.move(days=200)  # away from what other tests have compared
    reconcile_turns.take(10_000)
    with as_operator():
        for tenant in made:
            Subscription.objects.of(tenant).update(stripe_subscription=f"sub_{tenant.hex}")
    return made


def test_each_has_its_turn_once_an_hour_and_the_longest_waiting_first(world, subscribers):
    turns = [reconcile_turns.take(2) for _ in range(4)]
    assert [len(turn) for turn in turns] == [2, 2, 1, 0]
    assert {tenant for turn in turns for tenant in turn} == set(subscribers)

    world.move(minutes=30)
    assert reconcile_turns.take(10) == []
    with as_operator():
        for place, tenant in enumerate(subscribers):
            StripePushed.objects.of(tenant).update(compared_at=clock.now() - timedelta(hours=2, minutes=place))
    assert reconcile_turns.take(1) == [subscribers[-1]]
    reconcile_turns.failed(subscribers[-1])
    world.move(minutes=6)
    assert subscribers[-1] in reconcile_turns.take(10)


def test_who_has_changed_goes_before_who_has_not(world, subscribers):
    reconcile_turns.take(10)
    with as_operator():
        StripePushed.objects.filter(organization_id__in=[*subscribers, world.tenant]).update(
            compared_at=clock.now() - timedelta(minutes=70)
        )
        StripePushed.objects.of(subscribers[0]).update(compared_at=clock.now() - timedelta(minutes=80))
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)

    assert reconcile_turns.take(1) == [world.tenant]
    assert reconcile_turns.take(1) == [subscribers[0]]
