"""The account's state, as a function of what Stripe says and of time."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.stripe.states import GRACE_AFTER, SUSPENDED_AFTER, Facts, state_of

pytestmark = pytest.mark.no_servers
NOW = datetime(2026, 12, 24, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("status", "unpaid", "state"),
    [
        ("", None, "active"),
        ("active", None, "active"),
        ("trialing", None, "trialing"),
        ("incomplete", None, "active"),
        ("past_due", timedelta(0), "past_due"),
        ("past_due", GRACE_AFTER - SECOND, "past_due"),
        ("past_due", GRACE_AFTER, "grace"),
        ("past_due", SUSPENDED_AFTER - SECOND, "grace"),
        ("past_due", SUSPENDED_AFTER, "suspended"),
        ("active", GRACE_AFTER, "grace"),  # an invoice beside the subscription's
        ("trialing", timedelta(0), "past_due"),
        ("unpaid", timedelta(0), "suspended"),
        ("unpaid", None, "suspended"),
        ("paused", None, "suspended"),
        ("canceled", timedelta(0), "closed"),
        ("canceled", None, "active"),
        ("incomplete_expired", None, "active"),
        ("", SUSPENDED_AFTER, "suspended"),
    ],
)
def test_what_state_it_is(status, unpaid, state):
    assert state_of(Facts(status, None if unpaid is None else NOW - unpaid), NOW) == state


@pytest.mark.parametrize("status", ["", "active", "past_due", "canceled"])
def test_payment_brings_back_from_every_state_but_what_stripe_gave_up(status):
    assert state_of(Facts(status, None), NOW) == "active"


@pytest.mark.parametrize(("status", "state"), [("active", "suspended"), ("", "suspended"), ("canceled", "closed")])
def test_a_bad_debt_is_unpaid_from_the_first_moment(status, state):
    assert state_of(Facts(status, NOW, is_written_off=True), NOW) == state


def test_time_alone_only_makes_it_worse():
    order = ["past_due", "grace", "suspended"]
    seen = [state_of(Facts("past_due", NOW - timedelta(hours=hours)), NOW) for hours in range(0, 24 * 30)]

    assert [order.index(state) for state in seen] == sorted(order.index(state) for state in seen)
