"""Alerts at 50, 80 and 100 % of a budget, of what a plan includes, and of credit: each once, mailed, and listed."""

import secrets
import threading
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.core import mail
from django.core.mail.backends import locmem
from django.utils import timezone

from billing.caps import alerts, budgets, credit
from billing.caps.models import AlertFired
from billing.ledger import writing
from billing.sale import plans
from billing.sale.models import Plan, PlanVersion, Subscription
from saas.lib import clock
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tenants.scope import tenant_scope
from tests.billing.journal import settle, usage
from tests.racing import at_once
from tests.stripe.customer import current

URL = "/api/v1/billing/alerts"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def connection(embedded):
    with closing(writing.connect()) as connection:
        yield connection


@pytest.fixture
def spend(journal, state):
    def add(organization, nano, **more):
        journal.add(usage(organization.id, nano=nano, max_nano=nano, **more))
        settle(state, journal.name)

    return add


def put(organization, nano, key=None):
    with tenant_scope(organization.id):
        return budgets.put(organization, key, nano, actor=SYSTEM)


def fired(organization) -> list[tuple]:
    with as_operator():
        rows = AlertFired.objects.of(organization).order_by("period", "percent")
        return [(row.percent, row.spent_nano) for row in rows]


def test_each_share_is_told_once(alice, spend, connection):
    put(alice.organization, 1000)
    now = clock.now()
    for nano in (499, 1, 290, 10, 199):
        spend(alice.organization, nano)
        alerts.fire(connection, now)
        alerts.fire(connection, now)

    assert fired(alice.organization) == [(50, 500), (80, 800)]
    spend(alice.organization, 5000)
    alerts.fire(connection, now)
    assert fired(alice.organization) == [(50, 500), (80, 800), (100, 5999)]


def test_a_leap_tells_all_that_was_passed(alice, spend, connection):
    put(alice.organization, 3)
    spend(alice.organization, 3)
    alerts.fire(connection, clock.now())

    assert fired(alice.organization) == [(50, 3), (80, 3), (100, 3)]


def test_a_budget_that_is_lowered_below_what_is_spent_is_told(alice, spend, connection):
    put(alice.organization, 1000)
    spend(alice.organization, 450)
    alerts.fire(connection, clock.now())
    assert fired(alice.organization) == []

    put(alice.organization, 500)
    alerts.fire(connection, clock.now())

    assert fired(alice.organization) == [(50, 450), (80, 450)]


def test_a_key_s_budget_counts_its_own_calls(alice, make_key, spend, connection):
    key, other = (make_key(alice.organization)[0] for _ in range(2))
    put(alice.organization, 100, key)
    spend(alice.organization, 90, key=other.id.hex)
    spend(alice.organization, 55, key=key.id.hex)
    alerts.fire(connection, clock.now())

    assert fired(alice.organization) == [(50, 55)]


def test_the_next_month_begins_anew(alice, spend, connection):
    put(alice.organization, 100)
    spend(alice.organization, 60, period="2026-11")
    spend(alice.organization, 60, period="2026-12")
    for month in (11, 12):
        alerts.fire(connection, datetime(2026, month, 15, tzinfo=UTC))

    assert fired(alice.organization) == [(50, 60), (50, 60)]


def test_a_call_of_last_month_that_is_charged_late_is_told(alice, spend, connection):
    put(alice.organization, 100)
    spend(alice.organization, 60, period="2026-11")
    alerts.fire(connection, datetime(2026, 12, 1, tzinfo=UTC))

    assert fired(alice.organization) == [(50, 60)]


def test_calls_for_nothing_and_budgets_of_nothing_alert_nobody(alice, spend, connection):
    put(alice.organization, 0)
    spend(alice.organization, 0)
    alerts.fire(connection, clock.now())

    assert fired(alice.organization) == []


def test_of_many_that_look_at_once_one_finds_it(alice, spend, embedded):
    put(alice.organization, 100)
    spend(alice.organization, 100)
    now, found, start = clock.now(), [], threading.Barrier(4)

    def look():
        with closing(writing.connect()) as connection:
            start.wait()
            alerts.fire(connection, now)
            found.append(True)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert [percent for percent, _ in fired(alice.organization)] == [50, 80, 100]


def told(organization) -> list[tuple]:
    with as_operator():
        rows = AlertFired.objects.of(organization).order_by("about", "percent")
        return [(row.about, row.percent, row.spent_nano) for row in rows]


def put_on(organization, **contract):
    """The organization is on a version of a plan of its own, since long if nobody says another time."""
    since = contract.pop("since", LONG_AGO)
    with as_operator():
        plan = Plan.objects.create(slug=f"agreed-{secrets.token_hex(4)}", name="Agreed")
        version = PlanVersion.objects.create(plan=plan, version=1, currency="USD", **contract)
    plans.change(organization.id, plan.slug, actor=SYSTEM, version=version)
    with as_operator():
        Subscription.objects.of(organization).current().update(since=since)


def test_calls_that_the_plan_includes_are_told(alice, spend, connection):
    put_on(alice.organization, included_calls=4)
    for _ in range(2):
        spend(alice.organization, 7)
    alerts.fire(connection, clock.now())
    alerts.fire(connection, clock.now())
    assert told(alice.organization) == [("included_calls", 50, 2)]

    alerts.mail_due()
    [message] = mails_of(alice.organization)
    assert "50 % of the included calls" in message.subject
    assert "Used: 2\n" in message.body
    for _ in range(2):
        spend(alice.organization, 7)
    alerts.fire(connection, clock.now())
    assert [percent for _, percent, _ in told(alice.organization)] == [50, 80, 100]


def test_the_amount_that_the_plan_includes_is_told_beside_its_calls(alice, spend, connection):
    put_on(alice.organization, included_calls=2, included_amount=Decimal("0.000001"))
    spend(alice.organization, 800)
    alerts.fire(connection, clock.now())

    assert told(alice.organization) == [
        ("included_amount", 50, 800),
        ("included_amount", 80, 800),
        ("included_calls", 50, 1),
    ]


def test_of_a_part_of_a_month_its_share_of_the_amount_counts_and_what_was_used_since(alice, spend, connection):
    spend(alice.organization, 5_000, period="2026-11")
    put_on(alice.organization, included_amount=Decimal("0.000003"), since=datetime(2026, 11, 21, tzinfo=UTC))
    with as_operator():
        Subscription.objects.of(alice.organization).current().update(used_before_nano=5_000)
    spend(alice.organization, 499, period="2026-11")
    alerts.fire(connection, datetime(2026, 11, 22, tzinfo=UTC))
    assert told(alice.organization) == []

    spend(alice.organization, 301, period="2026-11")
    alerts.fire(connection, datetime(2026, 11, 22, tzinfo=UTC))
    assert told(alice.organization) == [("included_amount", 50, 800), ("included_amount", 80, 800)]
    spend(alice.organization, 1_499, period="2026-12")
    alerts.fire(connection, datetime(2026, 12, 22, tzinfo=UTC))
    assert len(told(alice.organization)) == 2


def test_a_new_plan_knows_what_was_used_in_its_first_month_before(alice, spend):
    spend(alice.organization, 700, period=f"{clock.now():%Y-%m}")
    put_on(alice.organization, included_amount=Decimal("0.000003"))

    assert current(alice.organization).used_before_nano == 700


def test_what_is_used_last_in_a_month_and_counted_after_it_is_told(alice, spend, connection):
    put_on(alice.organization, included_calls=1, included_amount=Decimal("0.000001"))
    spend(alice.organization, 1_000, period="2026-11")
    alerts.fire(connection, datetime(2026, 12, 1, tzinfo=UTC))

    found = [("included_amount", percent, 1_000) for percent in (50, 80, 100)]
    assert told(alice.organization) == [*found, *(("included_calls", percent, 1) for percent in (50, 80, 100))]


def test_a_budget_that_is_raised_is_told_of_anew_once(alice, spend, connection):
    put(alice.organization, 100)
    spend(alice.organization, 100)
    alerts.fire(connection, clock.now())
    put(alice.organization, 200)
    for _ in range(2):
        alerts.fire(connection, clock.now())
    assert sorted(fired(alice.organization)) == [(50, 100), (50, 100), (80, 100), (100, 100)]

    spend(alice.organization, 100)
    alerts.fire(connection, clock.now())
    assert sorted(fired(alice.organization))[-2:] == [(100, 100), (100, 200)]


def test_another_plan_tells_anew_in_the_same_month(alice, spend, connection):
    put_on(alice.organization, included_calls=2)
    spend(alice.organization, 1)
    alerts.fire(connection, clock.now())
    put_on(alice.organization, included_calls=1)
    alerts.fire(connection, clock.now())

    assert told(alice.organization) == [("included_calls", 50, 1)] * 2 + [("included_calls", 80, 1), ("included_calls", 100, 1)]


def give(organization, nano, **more):
    return credit.grant(organization.id, amount_nano=nano, category="paid", reason="test", actor=SYSTEM, **more)


def test_credit_is_told_of_what_there_was_when_some_was_added_last(alice, spend, connection, state):
    plans.change(alice.organization.id, "prepaid", actor=SYSTEM)
    give(alice.organization, 100)
    spend(alice.organization, 49)
    settle_credit(connection)
    alerts.fire(connection, clock.now())
    assert told(alice.organization) == []
    spend(alice.organization, 1)
    settle_credit(connection)
    alerts.fire(connection, clock.now())
    assert told(alice.organization) == [("credit", 50, 50)]

    give(alice.organization, 150)  # now there are 200
    spend(alice.organization, 160)
    settle_credit(connection)
    alerts.fire(connection, clock.now())
    assert told(alice.organization) == [("credit", 50, 50), ("credit", 50, 160), ("credit", 80, 160)]


def settle_credit(connection):
    credit.settle_all(connection)


def test_a_mail_whose_sender_is_killed_is_sent_by_the_next_one_under_the_same_name(alice, spend, connection, monkeypatch):
    alerts.fire(connection, clock.now())
    while alerts.mail_due():  # what other tests have left
        pass
    put(alice.organization, 100)
    spend(alice.organization, 50)
    alerts.fire(connection, clock.now())

    class Killed(BaseException):
        pass

    def killed(self, messages):
        mail.outbox.extend(messages)  # the server had it already
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(locmem.EmailBackend, "send_messages", killed)
        with pytest.raises(Killed):
            alerts.mail_due()
    alerts.mail_due()
    assert len(mails_of(alice.organization)) == 1  # the first one may be at it still
    with as_operator():
        AlertFired.objects.of(alice.organization).update(claimed_until=timezone.now())
    alerts.mail_due()
    alerts.mail_due()

    first, second = mails_of(alice.organization)
    assert first.extra_headers["Message-ID"] == second.extra_headers["Message-ID"]


def test_of_many_that_mail_one_does(alice, spend, connection):
    put(alice.organization, 100)
    spend(alice.organization, 50)
    alerts.fire(connection, clock.now())
    at_once(*[alerts.mail_due] * 4)

    assert len(mails_of(alice.organization)) == 1


def mails_of(organization) -> list:
    return [message for message in mail.outbox if organization.slug in message.body]


def test_owners_and_billing_members_are_mailed_once(alice, bob, join, make_user, spend, connection):
    payer = join(make_user("payer"), alice.organization, "billing")
    put(alice.organization, 100)
    spend(alice.organization, 50)
    alerts.fire(connection, clock.now())

    alerts.mail_due()
    alerts.mail_due()

    [message] = mails_of(alice.organization)
    assert sorted(message.bcc) == sorted([alice.email, payer.email])
    assert "50 %" in message.subject


def test_a_mail_that_was_not_taken_is_sent_later(alice, spend, connection, monkeypatch):
    put(alice.organization, 100)
    spend(alice.organization, 50)
    alerts.fire(connection, clock.now())

    def away(self, messages):
        raise ConnectionRefusedError("no mail server")

    with monkeypatch.context() as patched:
        patched.setattr(locmem.EmailBackend, "send_messages", away)
        alerts.mail_due()
    assert mails_of(alice.organization) == []
    alerts.mail_due()

    assert len(mails_of(alice.organization)) == 1


def test_alerts_are_listed_for_who_may_bill(alice, charlie, client_of, spend, connection, make_key):
    put(alice.organization, 1000)
    spend(alice.organization, 800)
    alerts.fire(connection, clock.now())

    results = client_of(alice).get(URL).json()["results"]

    assert sorted((each["percent"], each["spent"], each["amount"], each["scope"]) for each in results) == [
        (50, "0.0000008", "0.000001", "organization"),
        (80, "0.0000008", "0.000001", "organization"),
    ]
    assert client_of(charlie).get(URL).json()["results"] == []
    assert client_of(None).get(URL).status_code == 401
    assert client_of(make_key(alice.organization, scopes=["usage:read"])[1]).get(URL).status_code == 403
    assert client_of(alice).get(f"{URL}?limit=0").status_code == 422
