"""Which plan an organization is on, and what changes with it at once."""

import secrets
import threading

import pytest
from django.db import connections, transaction

from billing.caps import budgets, credit
from billing.sale import plans
from saas.lib.errors import NotFound, StateConflict
from tenants import caps
from tenants.access import SYSTEM, Actor
from tenants.databases import as_operator
from tenants.scope import tenant_scope
from tests.racing import at_once
from tests.waiting import PATIENCE, until

OPERATOR = Actor("operator", "usr_1")


def current(organization):
    from billing.sale.models import current_subscription
    from tenants.scope import tenant_scope

    with tenant_scope(organization.id):
        return current_subscription(organization)


def history(organization):
    from billing.models import Subscription
    from tenants.scope import tenant_scope

    with tenant_scope(organization.id):
        rows = Subscription.objects.of(organization).order_by("since").select_related("plan_version")
        return [(row.plan_version.plan_id, row.ended_at is None) for row in rows]


def now_of(organization):
    from tenants.models import Organization
    from tenants.scope import tenant_scope

    with tenant_scope(organization.id):
        return Organization.objects.get(id=organization.id)


@pytest.fixture
def change():
    from billing.sale import plans

    return lambda organization, slug, **more: plans.change(organization.id, slug, actor=OPERATOR, **more)


@pytest.fixture
def new_version(embedded):
    """`new_version(plan, **columns)`: what operators add; it is for sale at once."""
    from billing.models import Plan, PlanVersion

    def add(slug=None, **columns):
        slug = slug or f"p-{secrets.token_hex(4)}"
        with as_operator():
            plan, _ = Plan.objects.get_or_create(slug=slug, defaults={"name": slug})
            number = plan.versions.count() + 1
            return PlanVersion.objects.create(plan=plan, version=number, **({"currency": "USD"} | columns))

    return add


def test_a_new_organization_is_on_free(alice, make_key):
    _, presented = make_key(alice.organization)

    subscription = current(alice.organization)
    assert (subscription.plan_version.plan_id, subscription.state) == ("free", "active")
    from tenants.keys import authenticate

    terms = authenticate(presented).terms
    assert (terms.plan, terms.state, terms.currency) == ("free", "active", "USD")


def test_an_organization_that_was_not_made_has_no_plan(alice, embedded, as_role):
    from tenants.actions import create_organization

    with pytest.raises(StateConflict), transaction.atomic():
        create_organization(name="again", slug=alice.organization.slug, owner=None)

    orphans = as_role("ops")
    orphans.execute(
        "SELECT count(*) FROM subscription s WHERE NOT EXISTS (SELECT FROM tenants_organization o WHERE o.id = s.tenant_id)"
    )
    assert orphans.fetchone() == (0,)


def test_the_catalogue_has_no_caps(embedded):
    from tenants.actions import catalog_organization

    assert current(catalog_organization()).plan_version.plan_id == "internal"


def test_a_changed_plan_changes_limits_and_terms_at_once(alice, change, make_key):
    from tenants.keys import authenticate

    _, presented = make_key(alice.organization)

    change(alice.organization, "pro")

    organization, key = now_of(alice.organization), authenticate(presented)
    assert (organization.rate, organization.burst, organization.concurrency) == (1000, 2000, 512)
    assert (organization.max_models, organization.retention_hours) == (1000, 720)
    assert key.terms.plan == "pro"
    assert key.organization_limits.rate == 1000
    assert history(alice.organization) == [("free", False), ("pro", True)]


def test_a_plan_without_limits_leaves_those_that_there_are(make_organization, change):
    organization = make_organization(rate=77.0)

    change(organization, "custom")

    assert now_of(organization).rate == 77


def test_changing_to_the_same_version_changes_nothing(alice, change):
    before = current(alice.organization)

    assert change(alice.organization, "free") == before
    assert len(history(alice.organization)) == 1


def test_who_is_on_a_version_stays_on_it_until_they_change(alice, change, new_version):
    first = new_version(rate=5.0)
    change(alice.organization, first.plan_id)
    second = new_version(first.plan_id, rate=7.0)

    assert current(alice.organization).plan_version == first
    change(alice.organization, first.plan_id)
    assert current(alice.organization).plan_version == second
    assert now_of(alice.organization).rate == 7


def test_a_plan_that_does_not_exist_is_not_found(alice, change):
    with pytest.raises(NotFound):
        change(alice.organization, "gold")


@pytest.mark.parametrize("what", ["budget", "credit"])
def test_the_currency_stays_where_there_are_amounts_in_it(alice, new_version, what):
    version = new_version(currency="EUR")
    if what == "budget":
        with tenant_scope(alice.organization.id):
            budgets.put(alice.organization, None, 1000, actor=SYSTEM)
    else:
        credit.grant(alice.organization.id, amount_nano=1000, category="paid", reason="test", actor=SYSTEM)

    with pytest.raises(StateConflict, match="in USD"):
        plans.change(alice.organization.id, version.plan_id, version=version, actor=SYSTEM)


def test_who_has_no_amounts_yet_may_get_another_currency(alice, new_version):
    version = new_version(currency="EUR")

    assert plans.change(alice.organization.id, version.plan_id, version=version, actor=SYSTEM).plan_version == version


def test_a_plan_of_another_currency_cannot_be_had(alice, change, new_version):
    version = new_version(currency="EUR")

    with pytest.raises(StateConflict, match="USD"):
        change(alice.organization, version.plan_id)


def test_of_many_changes_at_once_each_is_whole(alice, change):
    at_once(*[lambda slug=slug: change(alice.organization, slug) for slug in ("pro", "pay-as-you-go", "prepaid", "free")])

    ending = [plan for plan, is_current in history(alice.organization) if is_current]
    assert len(ending) == 1
    organization, version = now_of(alice.organization), current(alice.organization).plan_version
    assert (organization.rate, organization.max_models) == (version.rate, version.max_models)
    assert organization.terms["plan"] == version.plan_id == ending[0]


def test_a_change_and_a_grant_at_once_do_not_wait_for_each_other_for_ever(alice, change, as_role):
    """Who gives credit has locked the organization first; a change that held the credit's lock by then would never end."""
    watching, is_locked = as_role("owner"), threading.Event()

    def is_waiting():
        watching.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')")
        return watching.fetchone() > (0,)

    def give():
        with as_operator(), transaction.atomic(using="ops"):
            caps.lock(alice.organization.id)
            is_locked.set()
            until(is_waiting)
            with connections["ops"].cursor() as cursor:
                credit.settle(cursor, alice.organization.id)

    def become_prepaid():
        assert is_locked.wait(PATIENCE)
        change(alice.organization, "prepaid")

    at_once(give, become_prepaid)

    assert current(alice.organization).plan_version.plan_id == "prepaid"


def test_of_versions_that_are_added_at_once_each_has_a_number():
    from billing.models import Plan
    from billing.sale.plan_versions import add_version

    with as_operator():
        plan = Plan.objects.create(slug=f"p-{secrets.token_hex(4)}", name="P")
    tiers = [{"up_to": None, "rate": "1"}]
    at_once(*[lambda: add_version(plan, actor=OPERATOR, currency="USD", overage=tiers) for _ in range(4)])

    with as_operator():
        assert sorted(plan.versions.values_list("version", flat=True)) == [1, 2, 3, 4]


def test_a_change_is_noted_for_every_key(alice, change, make_key):
    from tenants.models import RecordChange

    key, _ = make_key(alice.organization)
    with as_operator():
        before = RecordChange.objects.filter(name=f"key:{key.public_id}").count()

    change(alice.organization, "pro")

    with as_operator():
        assert RecordChange.objects.filter(name=f"key:{key.public_id}").count() > before


def test_credit_counts_from_when_the_organization_became_prepaid(alice, change):
    from inference.books import accounts

    accounts.shared_client().hset(f"account:{alice.organization.id.hex}", "nano:ever:", 1234)

    assert change(alice.organization, "prepaid").credit_base == 1234
    assert change(alice.organization, "pro").credit_base is None


def test_a_state_reaches_the_keys(alice, make_key):
    from billing.sale import plans
    from tenants.keys import authenticate

    _, presented = make_key(alice.organization)

    plans.set_state(alice.organization.id, "suspended", actor=OPERATOR)

    assert authenticate(presented).terms.state == "suspended"


def test_a_stranger_does_not_see_the_subscription(alice, charlie, as_role):
    stranger = as_role("app", charlie.organization.id)
    stranger.execute("SELECT tenant_id::text FROM subscription")

    assert stranger.fetchall() == [(str(charlie.organization.id),)]
