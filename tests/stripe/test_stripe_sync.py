"""manage.py stripe_sync."""

from datetime import timedelta

import pytest
from django.core.management import call_command

from billing.models import Plan
from billing.sale import plan_versions, plans
from billing.stripe import catalogue, given
from billing.stripe import portal as stripe_portal
from saas.lib import clock
from saas.lib.errors import PaymentsUnavailable
from tenants.access import Actor
from tenants.databases import as_operator
from tests.stripe.customer import buy, current

pytestmark = pytest.mark.usefixtures("its_clock")


@pytest.fixture
def sync(standin, capsys):
    """`sync(apply=…)`: what it prints, by lines."""

    def do(*, apply=True):
        call_command("stripe_sync", apply=apply)
        return capsys.readouterr().out.splitlines()

    return do


def test_stripe_sync_prints_a_plan_and_then_makes_it_once(standin, capsys):
    call_command("stripe_sync")
    planned = capsys.readouterr().out
    assert "would make price plan:pro:1:fee: 99.00 USD a month" in planned
    assert "would make price plan:pro:1:usage: 120.00 USD included, then × 0.9 × 0.8" in planned
    assert "would make meter spend_usd" in planned
    assert "would make portal: card, address, invoices, cancellation" in planned
    assert "free" not in planned
    assert "Nothing was changed" in planned

    call_command("stripe_sync")
    assert capsys.readouterr().out == planned
    call_command("stripe_sync", apply=True)
    assert capsys.readouterr().out == planned.replace("would make", "make").replace("Nothing was changed: add --apply.\n", "")
    call_command("stripe_sync", apply=True)
    assert capsys.readouterr().out == "Stripe knows all plans.\n"


@pytest.fixture
def followed():
    """`followed(days)`: a plan of this test's own; its first version is followed by another in so many days."""

    def do(days=0):
        with as_operator():
            plan = Plan.objects.create(slug=f"plan-{clock.now():%H%M%S%f}", name="Own", is_public=True)
        columns = {"currency": "USD", "included_amount": 0, "overage": [{"up_to": None, "rate": "1"}]}
        actor = Actor("operator", "o")
        first = plan_versions.add_version(plan, actor=actor, monthly_fee=10, **columns)

        def follow():
            starts = clock.now() + timedelta(days=days)
            plan_versions.add_version(plan, actor=actor, monthly_fee=20, starts_at=starts, **columns)

        return first, follow

    return do


def prices_of(plan):
    return {price.lookup_key: price.is_active for price in catalogue.prices() if price.lookup_key.startswith(f"plan:{plan}:")}


def test_what_a_later_version_has_followed_is_no_longer_for_sale_and_who_is_on_it_stays(standin, alice, sync, followed, work):
    first, follow = followed()
    sync()
    buy(standin, alice.organization, first.plan_id)
    work()
    follow()
    planned = sync(apply=False)
    assert {line for line in planned if first.plan_id in line and "no longer" in line} == {
        f"would make price plan:{first.plan_id}:1:{what}: no longer for sale" for what in ("fee", "usage")
    }
    assert prices_of(first.plan_id) == {f"plan:{first.plan_id}:1:fee": True, f"plan:{first.plan_id}:1:usage": True}

    sync()
    name = f"plan:{first.plan_id}"
    assert prices_of(first.plan_id) == {
        f"{name}:1:fee": False, f"{name}:1:usage": False, f"{name}:2:fee": True, f"{name}:2:usage": True
    }  # fmt: skip
    assert sync() == ["Stripe knows all plans."]
    standin.pass_month(hours=2)
    work()
    assert current(alice.organization).plan_version == first


@pytest.mark.parametrize("was_sold", [True, False])
def test_an_older_version_that_an_operator_gives_is_put_into_force(standin, alice, sync, followed, was_sold):
    first, follow = followed()
    if was_sold:
        sync()
    follow()
    sync()
    plans.change(alice.organization.id, first.plan_id, version=first, actor=Actor("operator", "o"))
    verb = "for sale again" if was_sold else "10.00 USD a month"
    assert any(f"plan:{first.plan_id}:1:fee: {verb}" in line for line in sync(apply=False))

    sync()
    assert given.put(current(alice.organization).id)
    [made] = standin.world.store.all("subscription")
    assert (made["status"], made["metadata"]["plan"], made["metadata"]["version"]) == ("active", first.plan_id, "1")
    assert f"make price plan:{first.plan_id}:1:fee: no longer for sale" in sync()
    assert sync() == ["Stripe knows all plans."]
    assert current(alice.organization).plan_version == first


def test_a_version_that_is_to_come_takes_nothing_off_the_shelf_yet(standin, sync, followed):
    first, follow = followed(days=3)
    sync()
    follow()
    sync()
    assert all(prices_of(first.plan_id).values())

    standin.advance(4 * 86_400)
    assert any("no longer for sale" in line and first.plan_id in line for line in sync())


def test_the_portals_settings_are_made_and_mended(standin, sync, alice):
    with pytest.raises(PaymentsUnavailable, match="stripe_sync"):
        stripe_portal.link(customer="cus_1", return_url="https://m.test")
    sync()
    ours = stripe_portal.find()
    assert stripe_portal.is_right(ours)
    standin.ask("POST", f"/v1/billing_portal/configurations/{ours.id}", {"features[subscription_cancel][mode]": "immediately"})
    [line] = [line for line in sync(apply=False) if "portal" in line]
    assert line == "would make portal: again only card, address, invoices, cancellation with the end of the month"

    sync()
    assert stripe_portal.find().id == ours.id
    assert stripe_portal.is_right(stripe_portal.find())
    assert sync() == ["Stripe knows all plans."]
