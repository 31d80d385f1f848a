"""Credit: granted, used up in order by what the ledger charges, ended by time, and the limit that follows from it."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing.caps import charging, credit, quotas
from billing.caps.credit import Burnt, Grant, allocate
from billing.caps.models import BURN_ORDER, CreditGrant
from billing.ledger import writing
from billing.ledger.verify import differences
from billing.models import PlanVersion, Subscription
from billing.sale import plans, rating, segments
from billing.sale.models import current_subscription
from inference.books import accounts
from saas.lib import clock
from saas.lib.errors import StateConflict, Unavailable, ValidationFailed
from saas.lib.money import NANO
from saas.lib.valkey import sync_client
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


def on(make_organization, slug):
    """An organization that has been on a plan since the month began."""
    organization = make_organization()
    plans.change(organization.id, slug, actor=SYSTEM)
    with as_operator():
        rows = Subscription.objects.of(organization)
        rows.update(since=clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    return organization


def test_credit_limits_nobody_whose_plan_is_not_prepaid(make_organization, spend, connection):
    organization = on(make_organization, "pay-as-you-go")
    give(organization, 500_000)
    assert limit_of(organization) is None

    spend(organization, 800_000)

    assert settled(connection, organization) == 0
    assert [grant.remaining_nano for grant in grants_of(organization)] == [0]


def test_on_free_nothing_is_charged_and_no_credit_used(make_organization, spend, connection, ledger):
    organization = make_organization()
    give(organization, 500)

    spend(organization, 800)

    assert settled(connection, organization) == 0
    assert [grant.remaining_nano for grant in grants_of(organization)] == [500]
    assert ledger("SELECT spent_nano, burnt_nano FROM credit_month WHERE tenant_id = %s", organization.id) == [(800, 0)]


def test_on_pro_credit_pays_only_what_is_charged_beyond_the_included_amount(make_organization, spend, connection, ledger):
    organization = on(make_organization, "pro")
    give(organization, 40 * NANO)
    for dollars, remaining in [(100, 40), (30, 31), (10, 22), (50, 0)]:
        spend(organization, dollars * NANO)
        assert settled(connection, organization) == 0
        settled(connection, organization)
        assert [grant.remaining_nano for grant in grants_of(organization)] == [remaining * NANO]

    assert ledger("SELECT burnt_nano, off_nano, overrun_nano FROM credit_month WHERE tenant_id = %s", organization.id) == [
        (40 * NANO, 40 * NANO, 0)
    ]
    give(organization, 100 * NANO)  # what was charged before is not its to pay
    assert [grant.remaining_nano for grant in grants_of(organization)] == [0, 100 * NANO]


def test_when_a_plan_is_left_the_charge_for_its_time_is_asked_for(make_organization, spend, connection):
    """A hundred dollars were included in a whole month: not any more when Pro is left within it."""
    organization = on(make_organization, "pro")
    give(organization, 200 * NANO)
    spend(organization, 100 * NANO)
    settled(connection, organization)
    assert [grant.remaining_nano for grant in grants_of(organization)] == [200 * NANO]

    plans.change(organization.id, "free", actor=SYSTEM)
    settled(connection, organization)

    with as_operator():
        pro, free = segments.of_month(organization, clock.now())
    charged = rating.overage_nano(pro.tariff, 100 * NANO)
    assert (pro.version.plan_id, free.version.plan_id) == ("pro", "free")
    assert [grant.remaining_nano for grant in grants_of(organization)] == [200 * NANO - charged]
    spend(organization, 70 * NANO)
    settled(connection, organization)
    assert [grant.remaining_nano for grant in grants_of(organization)] == [200 * NANO - charged]


def test_a_change_of_plan_first_charges_what_was_used_until_then(make_organization, spend):
    organization = on(make_organization, "pay-as-you-go")
    give(organization, 100 * NANO)
    spend(organization, 30 * NANO)

    plans.change(organization.id, "free", actor=SYSTEM)

    assert [grant.remaining_nano for grant in grants_of(organization)] == [70 * NANO]


@pytest.fixture
def broken_state(monkeypatch):
    """The state server cannot be reached."""
    monkeypatch.setattr(accounts, "shared_client", lambda: sync_client("unix:///nowhere.sock"))


def account(state, organization, nano):
    """What the books say was used ever: in the ledger, in the journal, and under way at its most."""
    state.hset(f"account:{organization.id.hex}", "nano:ever:", nano)


def test_who_leaves_prepaid_pays_for_what_the_ledger_does_not_hold_yet(prepaid, spend, connection, state, ledger):
    give(prepaid, 100)
    spend(prepaid, 30)
    account(state, prepaid, 40)

    plans.change(prepaid.id, "free", actor=SYSTEM)
    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [60]
    spend(prepaid, 10)
    account(state, prepaid, 45)
    spend(prepaid, 5)
    settled(connection, prepaid)

    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [60]  # the last 5 are Free's
    [month] = ledger(
        "SELECT spent_nano, burnt_nano, overrun_nano, ahead_nano FROM credit_month WHERE tenant_id = %s", prepaid.id
    )
    assert month == (45, 40, 0, 0)


def test_no_hopping_between_plans_passes_the_balance(prepaid, spend, connection, state):
    """Calls are used up to the limit while prepaid; the ledger hears of them two hops later."""
    give(prepaid, 100)
    used, waiting = 0, []
    for step in (7, 20, 9, 33, 50, 50, 50):
        waiting.append(min(step, limit_of(prepaid) - used))
        used += waiting[-1]
        account(state, prepaid, used)
        plans.change(prepaid.id, "free", actor=SYSTEM)
        plans.change(prepaid.id, "prepaid", actor=SYSTEM)
        quotas.project_and_note(connection, prepaid.id)
        if len(waiting) > 2:
            spend(prepaid, waiting.pop(0))
    for late in filter(None, waiting):
        spend(prepaid, late)
    settled(connection, prepaid)

    assert (used, limit_of(prepaid)) == (100, 100)
    assert [grant.remaining_nano for grant in grants_of(prepaid)] == [0]


def test_prepaid_is_not_left_for_nothing_while_nobody_knows_what_was_used(prepaid, broken_state):
    with pytest.raises(Unavailable, match="cannot be left"):
        plans.change(prepaid.id, "free", actor=SYSTEM)

    with as_operator():
        assert current_subscription(prepaid.id).plan_version.plan_id == "prepaid"


def test_what_was_paid_ahead_does_not_keep_credit_from_expiring(prepaid, connection, state):
    later = timezone.now() + timedelta(hours=2)
    give(prepaid, 100, expires_at=timezone.now() + timedelta(hours=1))
    account(state, prepaid, 30)
    plans.change(prepaid.id, "free", actor=SYSTEM)

    credit.expire_due(connection, later)

    assert [(grant.remaining_nano, grant.expired_nano) for grant in grants_of(prepaid)] == [(0, 70)]


def part(tariff, start, days):
    """Of a month of thirty days."""
    included, tiers, is_prepaid = tariff
    version = PlanVersion(
        plan_id="p", version=1, currency="USD", monthly_fee=0, included_amount=included, overage=tiers, is_prepaid=is_prepaid
    )
    begin = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=start)
    return segments.Segment(begin, begin + timedelta(days=days), version, 30 * 86_400_000)


TARIFFS = st.sampled_from(
    [
        (0, [{"up_to": None, "rate": "0"}], False),
        (0, [{"up_to": None, "rate": "1"}], False),
        (12, [{"up_to": "10", "rate": "0.90"}, {"up_to": None, "rate": "0.80"}], False),
        (40, [{"up_to": None, "rate": "1.5"}], False),
    ]
)


@pytest.mark.no_servers
@given(st.lists(st.tuples(TARIFFS, st.lists(st.integers(0, 30 * NANO), max_size=5)), min_size=1, max_size=4))
def test_what_is_asked_in_any_steps_is_what_the_month_charges(lives):
    """A part's length is known when it ends: until then it counts as lasting until the month's end."""
    looked, asked, most, length = charging.Looked(), 0, 0, 30 // len(lives)
    for number, (tariff, steps) in enumerate(lives):
        ended = [part(each, place * length, length) for place, (each, _) in enumerate(lives[:number])]
        parts = [*ended, part(tariff, number * length, 30 - number * length)]
        for spent in (0, *steps):
            more, looked = charging.ask(parts, looked, spent)
            assert more >= 0
            asked += more
        used = [sum(each) for _, each in lives[: number + 1]]
        charged = sum(rating.overage_nano(each.tariff, nano) for each, nano in zip(parts, used, strict=True))
        most = max(most, charged)
        assert asked >= charged
    assert asked == looked.asked_nano
    if all(len(tariff[1]) == 1 for tariff, _ in lives):  # with one rate a shorter part never charges less
        assert asked == charged


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
    plans.change(other.id, "pay-as-you-go", actor=SYSTEM)
    give(prepaid, 100)
    give(other, 5000)
    spend(prepaid, 1)
    spend(other, 2000)
    spend(make_organization(), 3)

    credit.settle_all(connection)

    assert [grants_of(each)[0].remaining_nano for each in (prepaid, other)] == [99, 3000]


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
