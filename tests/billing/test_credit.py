"""Credit: granted, used up in order by what the ledger charges, ended by time, and the limit that follows from it."""

from contextlib import closing
from datetime import timedelta

import pytest
from django.utils import timezone

from billing.caps import credit, quotas
from billing.caps.credit import Burnt, Grant, allocate
from billing.caps.models import BURN_ORDER, CreditGrant
from billing.ledger import writing
from billing.ledger.verify import differences
from billing.sale import plans
from inference.books import accounts
from saas.lib.errors import StateConflict, ValidationFailed
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tests.billing.journal import settle, usage


@pytest.fixture
def connection(embedded):
    with closing(writing.connect()) as connection:
        yield connection


@pytest.fixture
def prepaid(make_organization):
    organization = make_organization()
    plans.change(organization.id, "prepaid", actor=SYSTEM)
    return organization


def give(organization, nano, **more) -> CreditGrant:
    return credit.grant(organization.id, **{"amount_nano": nano, "category": "paid", "reason": "test", "actor": SYSTEM} | more)


def grants_of(organization) -> list[CreditGrant]:
    with as_operator():
        return list(CreditGrant.objects.of(organization).order_by(*BURN_ORDER))


def limit_of(organization) -> int | None:
    return accounts.read(organization.id.hex).limits.credit_nano


@pytest.fixture
def spend(journal, state):
    """`spend(organization, nano)`: an answered call that is in the ledger."""

    def add(organization, nano, **more):
        journal.add(usage(organization.id, nano=nano, max_nano=nano, **more))
        settle(state, journal.name)

    return add


def settled(connection, organization) -> int:
    with connection, connection.cursor() as cursor:
        return credit.settle(cursor, organization.id)


@pytest.mark.no_servers
def test_each_grant_is_used_up_before_the_next():
    grants = [Grant("a", 5, None), Grant("b", 0, None), Grant("c", 10, None)]

    burnt = allocate([("2026-11", 3), ("2026-12", 8), ("2027-01", 9)], grants)

    assert burnt == [
        Burnt("2026-11", 3, {"a": 3}),
        Burnt("2026-12", 8, {"a": 2, "c": 6}),
        Burnt("2027-01", 9, {"c": 4}),
    ]
    assert allocate([("2026-11", 3)], []) == [Burnt("2026-11", 3, {})]


def test_a_prepaid_organization_without_credit_may_not_spend(prepaid):
    assert limit_of(prepaid) == 0


def test_a_grant_holds_when_it_is_given(prepaid):
    give(prepaid, 500)
    assert limit_of(prepaid) == 500
    give(prepaid, 70, category="promotional")
    assert limit_of(prepaid) == 570


def test_credit_limits_nobody_whose_plan_is_not_prepaid(make_organization, spend, connection):
    organization = make_organization()
    give(organization, 500)
    assert limit_of(organization) is None

    spend(organization, 800)

    assert settled(connection, organization) == 0
    assert [grant.remaining_nano for grant in grants_of(organization)] == [0]


def test_the_earliest_expiry_goes_first_then_promotional_then_priority(prepaid, spend, connection):
    now = timezone.now()
    never = give(prepaid, 10)
    promised = give(prepaid, 10, category="promotional")
    later = give(prepaid, 10, expires_at=now + timedelta(days=9))
    soon = give(prepaid, 10, expires_at=now + timedelta(days=2), priority=50)
    sooner = give(prepaid, 10, expires_at=soon.expires_at, priority=10)

    assert [grant.id for grant in grants_of(prepaid)] == [each.id for each in (sooner, soon, later, promised, never)]
    spend(prepaid, 34)
    assert settled(connection, prepaid) == 0
    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [0, 0, 0, 6, 10]


def test_settling_moves_no_limit_and_settles_once(prepaid, spend, connection, ledger):
    give(prepaid, 100)
    spend(prepaid, 30)
    version = quotas.read_quota(connection, prepaid.id).limits

    settled(connection, prepaid)
    settled(connection, prepaid)

    assert quotas.read_quota(connection, prepaid.id).limits == version
    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [70]
    assert ledger("SELECT spent_nano, burnt_nano, overrun_nano FROM credit_month WHERE tenant_id = %s", prepaid.id) == [
        (30, 30, 0)
    ]


def test_what_was_spent_before_a_grant_is_not_its_to_pay(make_organization, spend, connection):
    organization = make_organization()
    spend(organization, 30)

    give(organization, 100)
    settled(connection, organization)

    assert [grant.remaining_nano for grant in grants_of(organization)] == [100]


def test_who_becomes_prepaid_does_not_pay_for_before(make_organization, spend, connection, ledger, state):
    organization = make_organization()
    state.hset(f"account:{organization.id.hex}", "nano:ever:", 1000)
    spend(organization, 1000)
    plans.change(organization.id, "prepaid", actor=SYSTEM)

    assert settled(connection, organization) == 0
    give(organization, 50)

    assert limit_of(organization) == 1050


def test_what_no_credit_covers_is_an_overrun_and_stops_nothing(prepaid, spend, connection, ledger, caplog):
    give(prepaid, 10)
    spend(prepaid, 25)

    assert settled(connection, prepaid) == 15

    assert ledger("SELECT burnt_nano, overrun_nano FROM credit_month WHERE tenant_id = %s", prepaid.id) == [(10, 15)]
    assert "more was charged than the credit covers" in caplog.text
    give(prepaid, 100)
    assert limit_of(prepaid) == 125


def test_a_payment_gives_credit_once(prepaid, charlie):
    first = give(prepaid, 10, payment_intent=f"pi_{prepaid.id.hex}")
    again = give(prepaid, 10, payment_intent=f"pi_{prepaid.id.hex}")

    assert again.id == first.id
    assert limit_of(prepaid) == 10
    for other in ((prepaid, 11), (charlie.organization, 10)):
        with pytest.raises(StateConflict):
            give(*other, payment_intent=f"pi_{prepaid.id.hex}")


@pytest.mark.parametrize("bad", [{"amount_nano": 0}, {"amount_nano": -5}, {"amount_nano": 10**16}])
def test_an_amount_that_is_none_is_refused(prepaid, bad):
    with pytest.raises(ValidationFailed):
        give(prepaid, **{"nano": 1} | {"nano": bad["amount_nano"]})


def test_credit_that_has_ended_already_is_refused(prepaid):
    with pytest.raises(ValidationFailed):
        give(prepaid, 5, expires_at=timezone.now() - timedelta(seconds=1))


def test_expiry_takes_what_was_not_used(prepaid, spend, connection, state):
    now = timezone.now()
    give(prepaid, 100, expires_at=now + timedelta(hours=1))
    give(prepaid, 1000)
    state.hset(f"account:{prepaid.id.hex}", "nano:ever:", 30)
    spend(prepaid, 30)

    credit.expire_due(connection, now)
    assert limit_of(prepaid) == 1100
    credit.expire_due(connection, now + timedelta(hours=2))

    assert limit_of(prepaid) == 1030
    assert [(grant.remaining_nano, grant.expired_nano) for grant in grants_of(prepaid)] == [(0, 70), (1000, 0)]
    assert quotas.read_quota(connection, prepaid.id).limits == accounts.read(prepaid.id.hex).limits


def test_what_is_charged_and_not_in_the_ledger_yet_is_paid_by_what_ends(prepaid, spend, connection, state):
    """30 are charged, of which the ledger knows nothing yet: they are kept of the 100 that end, until it does."""
    later = timezone.now() + timedelta(hours=2)
    give(prepaid, 100, expires_at=timezone.now() + timedelta(hours=1))
    give(prepaid, 1000)
    state.hset(f"account:{prepaid.id.hex}", "nano:ever:", 30)

    credit.expire_due(connection, later)
    credit.expire_due(connection, later)

    assert limit_of(prepaid) == 1030
    assert [(grant.remaining_nano, grant.expired_nano) for grant in grants_of(prepaid)] == [(30, 70), (1000, 0)]
    spend(prepaid, 30)
    credit.expire_due(connection, later)
    assert limit_of(prepaid) == 1030
    assert [(grant.remaining_nano, grant.expired_nano) for grant in grants_of(prepaid)] == [(0, 70), (1000, 0)]


def test_credit_of_an_unknown_account_ends_once_it_is_rebuilt(prepaid, connection, state):
    later = timezone.now() + timedelta(hours=2)
    give(prepaid, 100, expires_at=timezone.now() + timedelta(hours=1))
    state.delete(f"account:{prepaid.id.hex}")

    credit.expire_due(connection, later)
    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [100]
    credit.expire_due(connection, later)

    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [0]
    assert limit_of(prepaid) == 0


def test_everybody_with_new_charges_is_settled(prepaid, make_organization, spend, connection):
    other = make_organization()
    give(prepaid, 100)
    give(other, 100)
    spend(prepaid, 1)
    spend(other, 2)
    spend(make_organization(), 3)

    credit.settle_all(connection)

    assert [grants_of(each)[0].remaining_nano for each in (prepaid, other)] == [99, 98]


def test_the_application_sees_its_own_limits_only(make_organization, as_role, prepaid):
    give(prepaid, 5)
    cursor = as_role("app", prepaid.id)
    cursor.execute("SELECT limits ->> 'limit:nano:ever:' FROM limits_of(%s)", [str(prepaid.id)])
    assert cursor.fetchall() == [("5",)]
    for role_tenant in (make_organization().id, None):
        cursor = as_role("app", role_tenant)
        cursor.execute("SELECT * FROM limits_of(%s)", [str(prepaid.id)])
        assert cursor.fetchall() == []
        cursor.execute("SELECT * FROM credit_grant WHERE tenant_id = %s", [str(prepaid.id)])
        assert cursor.fetchall() == []


def test_the_nightly_comparison_sees_credit_that_nobody_used(prepaid, spend, connection, as_role):
    give(prepaid, 100)
    spend(prepaid, 30)
    settled(connection, prepaid)
    mine = f"credit: organization {prepaid.id}"
    assert [line for line in differences() if line.startswith(mine)] == []

    as_role("ops").execute("UPDATE credit_grant SET remaining_nano = 60 WHERE tenant_id = %s", [str(prepaid.id)])
    assert [line for line in differences() if line.startswith(mine)] == [
        f"{mine}: grants paid 40, months say 30, of which the ledger lacks 0"
    ]
    as_role("ops").execute("UPDATE credit_grant SET remaining_nano = 70 WHERE tenant_id = %s", [str(prepaid.id)])
    as_role("ops").execute("UPDATE credit_month SET spent_nano = 35 WHERE tenant_id = %s", [str(prepaid.id)])
    assert [line for line in differences() if line.startswith(mine)] == [
        f"{mine}: grants paid 30, months say 30, of which the ledger lacks 5"
    ]
