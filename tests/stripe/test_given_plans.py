"""A plan that an operator gives is put into force at Stripe: once, whatever fails, and an operator sees if it stays away."""

from datetime import timedelta

import pytest

from billing import alarms, tasks
from billing.models import Subscription
from billing.sale import plans
from billing.sale.models import current_subscription
from billing.stripe import customers, given, invoices, payments
from tenants.access import SYSTEM, Actor
from tenants.databases import as_operator
from tenants.models import Membership
from tests.racing import at_once
from tests.stripe.customer import buy, current

pytestmark = pytest.mark.usefixtures("its_clock")
OPERATOR = Actor("operator", "usr_1")


@pytest.fixture
def organization(alice):
    return alice.organization


def give(organization, plan, actor=OPERATOR):
    return plans.change(organization.id, plan, actor=actor, reason="agreed")


def put_due(organization):
    """As the task does; what there was of this organization."""
    with as_operator():
        waiting = set(Subscription.objects.of(organization).values_list("id", flat=True))
    return [given.put(pk) for pk in given.due() if pk in waiting]


def at_stripe(standin):
    return [(row["status"], row["metadata"].get("plan")) for row in standin.world.store.all("subscription")]


@pytest.mark.parametrize("plan", ["pay-as-you-go", "pro", "custom"])
def test_without_a_card_invoices_are_sent(standin, organization, alice, plan):
    give(organization, plan)
    assert put_due(organization) == [True]
    assert put_due(organization) == []

    assert at_stripe(standin) == [("active", plan)]
    [made] = standin.world.store.all("subscription")
    assert (made["collection_method"], made["days_until_due"]) == ("send_invoice", given.DAYS_UNTIL_DUE)
    [customer] = standin.world.store.all("customer")
    assert customer["email"] == alice.email
    row = current(organization)
    assert (row.plan_version.plan_id, row.state, row.stripe_status, row.stripe_due_at) == (plan, "active", "active", None)


def test_with_a_card_it_is_charged(standin, organization):
    customer = payments.customer_of(organization.id, email="a@example.org")
    standin.ask("POST", "/v1/payment_methods/pm_card_visa/attach", {"customer": customer})
    give(organization, "pro")
    put_due(organization)

    [made] = standin.world.store.all("subscription")
    assert made["collection_method"] == "charge_automatically"
    assert invoices.retrieve_invoice(made["latest_invoice"]).status == "paid"


def test_a_card_that_is_refused_is_told_and_tried_again(standin, organization):
    customer = payments.customer_of(organization.id, email="a@example.org")
    standin.ask("POST", "/v1/payment_methods/pm_card_chargeCustomerFail/attach", {"customer": customer})
    give(organization, "pro")

    assert put_due(organization) == [False]
    assert "refused" in current(organization).stripe_error


def test_the_month_is_invoiced_and_what_is_not_paid_when_due_is_unpaid(standin, organization, work):
    give(organization, "pro")
    put_due(organization)
    standin.advance(2 * 3600)
    work()
    [first] = invoices.open_invoices_of(current(organization).stripe_customer)
    assert first.total_minor > 0
    assert current(organization).state == "active"
    standin.advance((given.DAYS_UNTIL_DUE + 1) * 86_400)
    work()

    row = current(organization)
    assert (row.state, row.unpaid_since) == ("past_due", first.due_at)
    standin.click(first.hosted_url, card="4242424242424242", do="pay")
    work()
    assert current(organization).state == "active"


def test_a_subscription_that_runs_is_changed(standin, organization, work):
    buy(standin, organization, "pay-as-you-go")
    work()
    give(organization, "custom")
    assert put_due(organization) == [True]

    assert at_stripe(standin) == [("active", "custom")]
    work()
    assert current(organization).plan_version.plan_id == "custom"


@pytest.mark.parametrize("plan", ["free", "prepaid", "internal"])
def test_a_plan_that_nobody_pays_for_ends_what_runs_and_stays(standin, organization, work, plan):
    buy(standin, organization)
    work()
    give(organization, plan)
    assert put_due(organization) == [True]
    work()

    assert [status for status, _ in at_stripe(standin)] == ["canceled"]
    row = current(organization)
    assert (row.plan_version.plan_id, row.state, row.stripe_status) == (plan, "active", "canceled")


def test_news_of_the_old_subscription_do_not_undo_what_was_given(standin, organization, work):
    buy(standin, organization, "pay-as-you-go")
    work()
    give(organization, "custom")
    customers.update_customer(current(organization).stripe_customer, email="x@example.org", name="X")
    customers.keep_subscription(current(organization).stripe_subscription)  # makes an event of the subscription
    work()

    assert current(organization).plan_version.plan_id == "custom"
    put_due(organization)
    work()
    assert (at_stripe(standin), current(organization).plan_version.plan_id) == ([("active", "custom")], "custom")


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "fail_before", "fail_after", "busy"])
def test_whatever_fails_there_is_one_subscription_in_the_end(standin, organization, fault):
    give(organization, "pro")
    standin.fault(fault, path="/v1/subscriptions", times=6)
    results = []
    for _ in range(12):
        results += put_due(organization)
        standin.advance(3700)
    standin.steer("DELETE", "faults")

    assert results[-1] is True
    assert results.count(True) == 1
    assert at_stripe(standin) == [("active", "pro")]
    assert current(organization).stripe_error == ""


def test_many_at_once_make_one(standin, organization):
    row = give(organization, "pro")
    done = at_once(*[lambda: given.put(row.id)] * 4)

    assert sorted(done) == [False, False, False, True]
    assert at_stripe(standin) == [("active", "pro")]


def test_one_whose_worker_died_is_put_by_the_next(standin, organization):
    row = give(organization, "pro")
    given._put(current(organization))  # and died before it could say so
    with as_operator():
        Subscription.objects.filter(id=row.id).update(stripe_due_at=given.clock.now() + given.LEASE, stripe_tries=1)
    assert put_due(organization) == []
    standin.advance(121)

    assert put_due(organization) == [True]
    assert at_stripe(standin) == [("active", "pro")]


def test_a_plan_that_another_has_followed_is_not_put(standin, organization):
    old = give(organization, "pro")
    give(organization, "custom")

    assert given.put(old.id) is False
    assert put_due(organization) == [True]
    assert at_stripe(standin) == [("active", "custom")]


def test_what_fails_waits_longer_each_time_shows_why_and_calls_an_operator(standin, organization, operator):
    before = alarms.count()["given_plans"]
    give(organization, "pro")
    standin.fault("busy", times=10_000)
    waits = []
    for _ in range(3):
        assert put_due(organization) == [False]
        waits.append(current(organization).stripe_due_at - given.clock.now())
        standin.advance(3700)
    standin.steer("DELETE", "faults")

    assert waits[0] < waits[1] < waits[2] <= given.LONGEST_PAUSE
    assert alarms.count()["given_plans"] == before + 1
    page = operator.get("/admin/billing/subscription/", {"q": organization.slug}).content.decode()
    assert "waits after 3 tries" in page
    assert put_due(organization) == [True]
    assert alarms.count()["given_plans"] == before
    assert "waits after" not in operator.get("/admin/billing/subscription/", {"q": organization.slug}).content.decode()


def test_who_has_no_owner_cannot_be_invoiced_and_an_operator_hears_why(standin, make_organization):
    organization = make_organization()
    with as_operator():
        Membership.objects.of(organization).delete()
    give(organization, "pro")

    assert put_due(organization) == [False]
    with as_operator():
        assert "no owner" in current_subscription(organization.id).stripe_error


@pytest.mark.parametrize(("plan", "actor"), [("internal", SYSTEM), ("prepaid", OPERATOR), ("free", OPERATOR), ("pro", SYSTEM)])
def test_what_costs_nothing_or_was_not_given_by_an_operator_is_left_alone(standin, organization, plan, actor):
    give(organization, plan, actor)

    assert put_due(organization) == []
    assert at_stripe(standin) == []


def test_to_give_the_same_again_makes_up_for_what_never_reached_stripe(standin, organization):
    give(organization, "pro", SYSTEM)
    assert put_due(organization) == []
    give(organization, "pro")

    assert put_due(organization) == [True]
    assert at_stripe(standin) == [("active", "pro")]


def test_the_tasks_find_it(standin, organization, settings):
    settings.CELERY_TASK_ALWAYS_EAGER = True
    row = give(organization, "pro")

    assert row.id in given.due()
    assert tasks.put_given_plan(str(row.id)) is True
    assert row.id not in given.due()
    assert timedelta(seconds=15) == given.FIRST_PAUSE
