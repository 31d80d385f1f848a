"""Usage told to Stripe: each sealed unit once, whatever goes wrong on the way."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.db.utils import DatabaseError

from billing.invoicing import push
from billing.invoicing.models import DECISIONS, TURNS
from billing.models import StripePush
from tenants.databases import as_operator
from tests.stripe.usage.world import HOUR

EVENTS = "/v1/billing/meter_events"


def told(world):
    """All that the stand-in has counted is all that was sealed, in whole units."""
    return sum(value for _, value in world.counted()) == world.units_used()


def test_a_sealed_hour_becomes_one_event_at_its_hour(world):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)

    assert push.push(world.tenant) == 1

    assert world.counted() == [(hour, 5000)]
    [row] = world.rows()
    assert row.identifier == f"mt1:{world.tenant.hex}:spend_usd:{hour:%Y-%m-%dT%H}:0"
    assert row.state == "accepted"
    assert row.first_sent_at <= row.accepted_at


def test_what_is_less_than_a_unit_is_carried_to_the_next_hour(world):
    first = world.this_hour - HOUR
    world.use(first, 1_700)
    push.push(world.tenant)
    world.move(hours=1)
    world.use(first + HOUR, 1_400)
    push.push(world.tenant)
    world.move(hours=1)
    world.use(first + 2 * HOUR, 100)  # nothing to tell of it
    push.push(world.tenant)

    assert world.counted() == [(first, 1), (first + HOUR, 2)]
    assert [(row.nano, row.value, row.attempts) for row in world.rows()] == [(1700, 1, 1), (1400, 2, 1), (100, 0, 0)]


def test_pushing_again_tells_nothing_again(world):
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)

    assert push.push(world.tenant) == 0
    assert len(world.events_told()) == 1


def test_a_later_seal_of_an_hour_is_a_delta_at_the_same_hour(world):
    hour = world.this_hour - HOUR
    world.use(hour, 2_500)
    push.push(world.tenant)
    world.move(hours=5)
    world.use(hour, 1_500)
    push.push(world.tenant)

    assert world.counted() == [(hour, 2), (hour, 2)]
    assert [row.seq for row in world.rows()] == [0, 1]
    assert told(world)


def test_of_the_hour_in_which_it_subscribed_only_what_came_after_counts(world):
    began = world.stripe.created_at
    world.use(began - timedelta(seconds=1), 7_000_000)
    world.use(began, 1_000_000)
    world.use(began + timedelta(seconds=1), 500_000)

    push.push(world.tenant)

    assert sum(value for _, value in world.counted()) == 1500
    assert all(row.told_at >= began for row in world.rows())


def test_an_hour_of_the_next_month_begins_a_new_count(world):
    month = (world.this_hour + timedelta(days=31)).replace(day=1, hour=0)
    world.use(world.this_hour - HOUR, 1_999)
    world.move_to(month + 2 * HOUR)
    world.use(month, 1_999)

    push.push(world.tenant)

    assert [value for _, value in world.counted()] == [1, 1]


@pytest.mark.parametrize(
    ("fault", "is_told"),
    [
        ("fail_before", False),
        ("fail_after", True),
        ("drop_before", False),
        ("drop_after", True),
        ("conflict", False),
    ],
)
def test_an_unknown_outcome_is_asked_again_with_the_same_identifier(world, standin, fault, is_told):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    standin.fault(fault, path=EVENTS)

    push.push(world.tenant)
    assert bool(world.counted()) is is_told
    world.move(minutes=20)
    push.push(world.tenant)

    assert world.counted() == [(hour, 5000)]
    assert len({row["params"]["identifier"] for row in world.events_told()}) == 1
    assert [row.state for row in world.rows()] == ["accepted"]


def test_too_many_requests_are_repeated(world, standin):
    world.use(world.this_hour - HOUR, 5_000_000)
    standin.fault("busy", path=EVENTS, times=3)

    push.push(world.tenant)

    assert told(world)


def test_when_the_identifier_may_be_forgotten_the_sum_of_the_hour_shows_that_it_arrived(world, standin):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    standin.fault("drop_after", path=EVENTS)
    push.push(world.tenant)
    standin.fault("forget_identifiers")
    world.move(hours=21)

    push.push(world.tenant)

    assert world.counted() == [(hour, 5000)]
    assert [row.state for row in world.rows()] == ["accepted"]


@pytest.mark.parametrize("late_hours", [3, 23, 40])
def test_however_late_the_sums_are_it_is_not_told_twice(world, standin, late_hours):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    standin.fault("late_summaries", value=(21 + late_hours) * 3600)
    standin.fault("drop_after", path=EVENTS)
    push.push(world.tenant)
    standin.fault("forget_identifiers")
    world.move(hours=21)

    for _ in range(45):
        push.push(world.tenant)
        world.move(hours=1)

    assert world.counted() == [(hour, 5000)]
    [row] = world.rows()
    assert row.attempts == 1
    assert row.state == ("accepted" if late_hours == 3 else "unclear")  # after a day a person is asked


def test_what_no_sum_shows_for_a_day_is_for_a_person(world, standin, caplog):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    standin.fault("drop_before", path=EVENTS)
    push.push(world.tenant)
    standin.fault("forget_identifiers")
    world.move(hours=21)
    push.push(world.tenant)
    assert [row.state for row in world.rows()] == ["due"]
    world.move(hours=4)

    push.push(world.tenant)

    [row] = world.rows()
    assert (row.state, row.attempts) == ("unclear", 1)
    assert "cannot be told whether Stripe has the usage" in caplog.text
    with as_operator():
        assert push.decide(row, "replaced")
    assert world.tenant in push.waiting()
    push.push(world.tenant)
    assert world.counted() == [(hour, 5000)]


def test_what_stripe_says_late_overrides_no_refusal(world, monkeypatch):
    world.use(world.this_hour - HOUR, 5_000_000)
    send = push.usage.send_meter_event

    def refused_meanwhile(**event):
        was_new = send(**event)
        with as_operator():
            StripePush.objects.filter(identifier=event["identifier"]).turn("rejected", error="by an event")
        return was_new

    monkeypatch.setattr(push.usage, "send_meter_event", refused_meanwhile)  # Stripe's thin event is faster than its answer

    assert push.push(world.tenant) == 0
    [row] = world.rows()
    assert (row.state, row.error) == ("rejected", "by an event")


@pytest.mark.parametrize(
    ("before", "turns", "decisions"),
    [
        ("due", {"accepted", "rejected", "unclear"}, set()),
        ("accepted", {"rejected"}, set()),
        ("rejected", set(), {"accepted", "replaced"}),
        ("unclear", {"rejected"}, {"accepted", "replaced"}),
        ("replaced", set(), set()),
    ],
)
def test_a_row_goes_only_where_its_state_leads(world, before, turns, decisions):
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)
    with as_operator():
        rows = StripePush.objects.of(world.tenant)

        def leads(to, how):
            rows.update(state=before)
            return bool(getattr(rows, how)(to))

        assert {to for to in TURNS if leads(to, "turn")} == turns
        assert {to for to in DECISIONS if leads(to, "decide")} == decisions


def test_of_several_in_doubt_those_that_arrived_are_found(world, standin):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000)
    standin.fault("drop_after", path=EVENTS)
    push.push(world.tenant)
    for nano in (5_000, 7_000):
        world.use(hour, nano)
        standin.fault("drop_before", path=EVENTS)
        push.push(world.tenant)
    standin.fault("forget_identifiers")
    world.move(hours=22)

    push.push(world.tenant)
    assert sorted(row.state for row in world.rows()) == ["accepted", "due", "due"]
    world.move(hours=3)
    push.push(world.tenant)

    assert world.counted() == [(hour, 5)]
    assert sorted(row.state for row in world.rows()) == ["accepted", "unclear", "unclear"]


def test_a_sum_that_fits_neither_is_for_a_person(world, standin):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    standin.fault("drop_after", path=EVENTS)
    push.push(world.tenant)
    standin.ask("POST", EVENTS, event(world, hour, 77))
    world.move(hours=25)

    push.push(world.tenant)

    [row] = world.rows()
    assert row.state == "unclear"
    assert "5077" in row.error


def event(world, hour, value):
    """Somebody else's event, as the form of a request."""
    return {
        "event_name": "spend_usd",
        "payload[stripe_customer_id]": world.stripe.customer,
        "payload[value]": str(value),
        "identifier": f"foreign-{hour}-{value}",
        "timestamp": int(hour.timestamp()),
    }


def test_what_stripe_refuses_is_for_a_person_and_not_sent_again(world, caplog):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    [period] = push.periods.periods_of(push.periods.subscriptions_of(world.tenant)[0], since=hour, until=hour + HOUR)
    push.cover(period)
    world.move(days=36)  # while nobody sent

    push.send_due(world.tenant)
    world.move(hours=1)
    push.send_due(world.tenant)

    [row] = world.rows()
    assert (row.state, row.attempts) == ("rejected", 1)
    assert "35 days" in row.error
    assert "Stripe refused usage" in caplog.text


def test_usage_of_more_than_35_days_ago_is_rejected_and_said(world, caplog):
    hour = world.this_hour - HOUR
    world.move(days=36)
    world.use(hour, 5_000_000)

    for row in push.periods.subscriptions_of(world.tenant):
        for period in push.periods.periods_of(row, since=hour, until=hour + HOUR):
            push.cover(period)

    assert [row.state for row in world.rows()] == ["rejected"]
    assert "cannot be told to Stripe any more" in caplog.text


def test_only_one_sends_for_an_organization(world, embedded, as_role):
    world.use(world.this_hour - HOUR, 5_000_000)
    other = as_role("ops")
    other.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [push.SENDING, str(world.tenant)])

    assert push.push(world.tenant) == 0
    assert world.counted() == []

    other.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [push.SENDING, str(world.tenant)])
    assert push.push(world.tenant) == 1


def test_what_is_told_is_never_changed(world):
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)

    for field, value in (("value", 1), ("identifier", "mt1:other"), ("nano", 1), ("first_sent_at", None)):
        with as_operator(), pytest.raises(DatabaseError), transaction.atomic(using="ops"):
            StripePush.objects.of(world.tenant).update(**{field: value})
    with as_operator(), pytest.raises(DatabaseError), transaction.atomic(using="ops"):
        StripePush.objects.of(world.tenant).delete()


def test_a_row_that_was_sent_has_the_time_of_it(world):
    world.use(world.this_hour - HOUR, 5_000_000)
    push.push(world.tenant)

    with as_operator(), pytest.raises(DatabaseError), transaction.atomic(using="ops"):
        StripePush.objects.of(world.tenant).update(first_sent_at=None)


def test_a_replaced_row_is_told_again_under_another_identifier(world, standin):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    standin.fault("reject_usage")
    push.push(world.tenant)
    assert world.counted() == []
    with as_operator():
        StripePush.objects.of(world.tenant).update(state="replaced")

    push.push(world.tenant)

    assert world.counted() == [(hour, 5000)]
    assert [row.identifier[-2:] for row in world.rows()] == [":0", ":1"]


def test_a_thin_event_marks_what_stripe_did_not_count(world, standin, caplog):
    world.use(world.this_hour - HOUR, 5_000_000)
    standin.fault("reject_usage")
    push.push(world.tenant)
    assert [row.state for row in world.rows()] == ["accepted"]
    [report] = [event for event in standin.all_delivered() if event["type"] == "v1.billing.meter.error_report_triggered"]

    assert push.reject(report["id"]) == 1

    [row] = world.rows()
    assert row.state == "rejected"
    assert "Cannot find the customer" in row.error
    assert "Stripe has not counted the usage" in caplog.text
