"""Pushes under faults in any order: in the end Stripe has each unit once, and the reconciliation agrees."""

import random
from contextlib import suppress
from datetime import timedelta

import pytest

from billing.invoicing import push
from billing.invoicing.reconcile import reconcile_all
from saas.lib.errors import AppError
from tenants.databases import as_operator
from tests.stripe.usage.test_push import EVENTS
from tests.stripe.usage.world import HOUR

FAULTS = ("busy", "conflict", "fail_before", "fail_after", "drop_before", "drop_after", "late_summaries")


def ask_a_person(world, standin):
    """Who looks at Stripe for what nobody else can tell."""
    counted = {row[0] for row in standin.world.store.db.execute("SELECT identifier FROM usage")}
    with as_operator():
        for row in world.rows():
            if row.state == "unclear":
                assert push.decide(row, "accepted" if row.identifier in counted else "replaced")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_goes_wrong_each_unit_is_counted_once(world, standin, seed):
    dice = random.Random(seed)  # a test's own dice
    for _ in range(30):
        hour = world.this_hour - dice.randrange(1, 3) * HOUR
        if hour >= world.stripe.created_at:
            world.use(hour, dice.choice([1, 999, 1_000, 123_456_789]))
        fault = dice.choice(FAULTS)
        path = EVENTS if dice.random() < 0.7 else "/v1/"
        standin.fault(fault, path=path, times=dice.choice([1, 1, 5]), value=dice.choice([0, 1200]))
        with suppress(AppError):
            push.push(world.tenant)
        if dice.random() < 0.2:  # a pause after which Stripe need not know an identifier any more
            standin.fault("forget_identifiers")
            world.move(hours=21)
        else:
            world.move(minutes=dice.choice([1, 20, 60]))
    standin.steer("DELETE", "faults")
    for _ in range(15):
        world.move(hours=2)
        push.push(world.tenant)
        ask_a_person(world, standin)

    assert sum(value for _, value in world.counted()) == world.units_used()
    assert {row.state for row in world.rows()} <= {"accepted", "replaced"}
    world.move_to(world.this_hour + timedelta(hours=2))
    assert {run.verdict for run in reconcile_all(world.tenant)} == {"match"}
