"""The reconciliation: it says match when all agree, and else names the hour that differs and how."""

from datetime import timedelta

import pytest

from billing import tasks
from billing.invoicing import push
from billing.invoicing.reconcile import reconcile, reconcile_all
from billing.models import ReconRun
from tenants.databases import as_operator
from tests.stripe.usage.test_push import EVENTS, event
from tests.stripe.usage.world import HOUR


@pytest.fixture
def pushed(world):
    """Two hours of usage that Stripe has had for two hours."""
    first = world.this_hour - HOUR
    world.use(first, 5_000_400)
    world.use(first + HOUR, 3_000_700)
    world.move(hours=1)
    push.push(world.tenant)
    world.move(hours=2)
    return first


def compared(world):
    [run] = reconcile_all(world.tenant)
    return run


def hours(run):
    return {entry["hour"]: entry["verdict"] for entry in run.hours}


def shown(hour):
    return f"{hour:%Y-%m-%dT%H:00:00Z}"


def test_when_all_agree_it_is_a_match(world, pushed, caplog):
    run = compared(world)

    assert (run.verdict, run.ledger, run.pushed, run.stripe) == ("match", 8001, 8001, 8001)
    assert run.hours == []
    assert "differ" not in caplog.text


def test_what_was_sealed_just_now_is_a_lag(world, pushed):
    world.use(pushed + 2 * HOUR, 1_000_000)

    run = compared(world)

    assert (run.verdict, run.ledger, run.pushed) == ("lag", 9001, 8001)
    assert hours(run) == {shown(pushed + 2 * HOUR): "lag"}


def test_late_summaries_are_a_lag_and_then_a_match(world, standin):
    hour = world.this_hour - HOUR
    standin.fault("late_summaries", value=1800)
    world.use(hour, 5_000_000)
    push.push(world.tenant)

    assert hours(compared(world)) == {shown(hour): "lag"}
    world.move(hours=1)
    assert compared(world).verdict == "match"


def test_what_stripe_does_not_have_is_missing(world, pushed, standin, caplog):
    standin.world.store.db.execute("DELETE FROM usage WHERE value = 5000")

    run = compared(world)

    assert (run.verdict, run.pushed, run.stripe) == ("missing", 8001, 3001)
    assert hours(run) == {shown(pushed): "missing"}
    assert "Stripe and the ledger differ (missing)" in caplog.text


def test_what_stripe_has_too_much_is_excess(world, pushed, standin):
    standin.ask("POST", EVENTS, event(world, pushed + HOUR, 77))

    run = compared(world)

    assert (run.verdict, run.stripe) == ("excess", 8078)
    assert hours(run) == {shown(pushed + HOUR): "excess"}


def test_two_errors_that_cancel_each_other_are_both_named(world, pushed, standin):
    standin.world.store.db.execute("DELETE FROM usage WHERE value = 5000")
    standin.ask("POST", EVENTS, event(world, pushed + HOUR, 5000))

    run = compared(world)

    assert (run.verdict, run.ledger, run.stripe) == ("excess", 8001, 8001)
    assert hours(run) == {shown(pushed): "missing", shown(pushed + HOUR): "excess"}


def test_what_stripe_refused_is_named(world, pushed):
    from billing.models import StripePush

    with as_operator():
        StripePush.objects.of(world.tenant).filter(hour=pushed).update(state="rejected")

    run = compared(world)

    assert run.verdict == "rejected"
    assert hours(run) == {shown(pushed): "rejected"}


def test_what_stays_unsent_is_missing_in_the_end(world, pushed, standin):
    hour = pushed + 2 * HOUR
    world.use(hour, 1_000_000)
    standin.fault("fail_before", path=EVENTS, times=1)
    push.push(world.tenant)

    assert hours(compared(world)) == {shown(hour): "lag"}
    world.move(hours=3)
    assert hours(compared(world)) == {shown(hour): "missing"}
    push.push(world.tenant)
    world.move(hours=1)
    assert compared(world).verdict == "match"


def test_an_answer_that_was_lost_is_a_lag_even_if_the_event_arrived(world, pushed, standin):
    hour = pushed + 2 * HOUR
    world.use(hour, 1_000_000)
    standin.fault("drop_after", path=EVENTS, times=1)
    push.push(world.tenant)

    run = compared(world)

    assert (run.verdict, run.pushed, run.stripe) == ("lag", 8001, 9001)


def test_old_comparisons_are_removed_but_the_last_of_an_invoice(world, pushed, settings):
    days = settings.CONFIG.reconciliation_retention_days
    [period] = push.periods.periods_of(push.periods.subscriptions_of(world.tenant)[0], since=pushed, until=pushed + HOUR)
    runs = [reconcile(period, draft=draft) for draft in (None, 1, 2, None)]
    world.move(days=days - 1)
    tasks.forget_comparisons()
    assert left(world) == [run.id for run in runs]
    world.move(days=2)
    fresh = reconcile(period)

    tasks.forget_comparisons()

    assert left(world) == [runs[2].id, fresh.id]


def left(world):
    with as_operator():
        return list(ReconRun.objects.of(world.tenant).order_by("created_at", "id").values_list("id", flat=True))


def test_usage_before_the_subscription_is_no_part_of_it(world, pushed):
    world.use(world.stripe.created_at - timedelta(seconds=1), 9_000_000)
    push.push(world.tenant)

    assert compared(world).verdict == "match"
