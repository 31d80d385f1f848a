"""The parts of a month by the plans that an organization was on."""

import secrets
from datetime import UTC, datetime, timedelta

import pytest

from billing.models import Plan, PlanVersion, Subscription
from billing.sale import plans, segments
from saas.lib import clock
from tenants.access import SYSTEM
from tenants.databases import as_operator

MONTH = datetime(2026, 6, 1, tzinfo=UTC)
END = datetime(2026, 7, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def on(make_organization):
    """`on([slug, since], …)`: an organization that was on these plans, from these times on; the first one is Free."""
    organization = make_organization()

    def do(*changes):
        for slug, since in changes:
            plans.change(organization.id, slug, actor=SYSTEM)
            with as_operator():
                Subscription.objects.of(organization).current().update(since=since)
        return organization

    with as_operator():
        Subscription.objects.of(organization).update(since=MONTH - 100 * DAY)
    return do


def parts(organization, moment=MONTH):
    with as_operator():
        found = segments.of_month(organization, moment)
    return [(part.version.plan_id, part.start, part.end) for part in found]


def test_a_month_on_one_plan_is_one_part(on):
    assert parts(on(), MONTH + 12 * DAY) == [("free", MONTH, END)]


def test_each_change_begins_a_part_at_a_whole_millisecond(on):
    change = MONTH + 9 * DAY + timedelta(microseconds=1_234_567)
    organization = on(("pro", change), ("pay-as-you-go", MONTH + 20 * DAY))
    whole = MONTH + 9 * DAY + timedelta(microseconds=1_234_000)

    assert parts(organization) == [
        ("free", MONTH, whole),
        ("pro", whole, MONTH + 20 * DAY),
        ("pay-as-you-go", MONTH + 20 * DAY, END),
    ]
    assert parts(organization, MONTH - DAY) == [("free", MONTH - 31 * DAY, MONTH)]
    assert parts(organization, END) == [("pay-as-you-go", END, END + 31 * DAY)]


def test_a_change_at_the_months_beginning_leaves_one_part(on):
    assert parts(on(("pro", MONTH))) == [("pro", MONTH, END)]


def test_before_its_first_plan_began_it_counts_already(on):
    with as_operator():
        organization = on()
        Subscription.objects.of(organization).update(since=MONTH + 9 * DAY)

    assert parts(organization) == [("free", MONTH, END)]
    assert parts(organization, MONTH - DAY) == [("free", MONTH - 31 * DAY, MONTH)]


def test_a_version_that_charges_the_same_begins_no_part(on):
    slug, organization = f"p-{secrets.token_hex(4)}", on()
    with as_operator():
        plan = Plan.objects.create(slug=slug, name=slug)
    for number, (fee, rate) in enumerate([(99, 10.0), (99, 77.0), (199, 77.0)], 1):
        with as_operator():
            version = PlanVersion.objects.create(plan=plan, version=number, currency="USD", monthly_fee=fee, rate=rate)
        plans.change(organization.id, slug, version=version, actor=SYSTEM)
        with as_operator():
            Subscription.objects.of(organization).current().update(since=MONTH + number * DAY)

    assert [(start - MONTH).days for _, start, _ in parts(organization)] == [0, 1, 3]


def test_what_lies_within_a_time_is_cut_to_it(on):
    organization = on(("pro", MONTH + 9 * DAY))
    with as_operator():
        [part] = segments.within(segments.of_month(organization, MONTH), MONTH + 10 * DAY, MONTH + 15 * DAY)

    assert (part.version.plan_id, part.start, part.end) == ("pro", MONTH + 10 * DAY, MONTH + 15 * DAY)
    assert part.tariff.included == 120 * 10**9 * 5 // 30


def test_a_change_takes_effect_now(on):
    before = clock.now()
    organization = on()
    plans.change(organization.id, "prepaid", actor=SYSTEM)

    [_, (plan, start, _)] = parts(organization, before)
    assert plan == "prepaid"
    assert before - timedelta(milliseconds=1) <= start <= clock.now()
