"""kill -9 of who pushes, at each step: the next one tells each unit once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from billing.invoicing import push
from saas.config import ROOT
from tests.stripe.usage.world import HOUR
from tests.waiting import PATIENCE


@pytest.fixture
def environment(world, movable, settings):
    """Of a process that meets the same servers as this one."""
    config = settings.CONFIG
    return os.environ | {
        "STATE_URL": movable,
        "CLOCK_MOVABLE": "1",
        "STRIPE_SECRET_KEY": config.stripe_secret_key.get_secret_value(),
        "STRIPE_API_BASE": config.stripe_api_base,
    }


def run(world, environment, point):
    command = [sys.executable, "-m", "tests.stripe.usage.killed", str(world.tenant), point]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    "point",
    [
        "a row is made, not committed",
        "the rows are committed",
        "the time is written",
        "Stripe has answered",
        "the answer is written",
    ],
)
def test_a_killed_push_is_finished_by_the_next(world, environment, point):
    hours = [world.this_hour + n * HOUR for n in range(3)]
    for hour in hours:
        world.use(hour, 1_000_500)
    world.move(hours=4)

    assert run(world, environment, point).wait(PATIENCE) == -signal.SIGKILL
    world.move(minutes=20)
    push.push(world.tenant)

    assert world.counted() == [(hours[0], 1000), (hours[1], 1001), (hours[2], 1000)]
    assert {row.state for row in world.rows()} == {"accepted"}


def test_a_killed_push_is_remembered_longer_than_stripe_remembers(world, environment, standin):
    hour = world.this_hour - HOUR
    world.use(hour, 5_000_000)
    assert run(world, environment, "Stripe has answered").wait(PATIENCE) == -signal.SIGKILL
    standin.fault("forget_identifiers")
    world.move(hours=21)

    push.push(world.tenant)

    assert world.counted() == [(hour, 5000)]
    assert [row.state for row in world.rows()] == ["accepted"]


def test_many_at_once_tell_each_unit_once(world, environment):
    for n in range(12):
        world.use(world.this_hour + n * HOUR, 1_000_500)
    world.move(hours=13)

    others = [run(world, environment, "nowhere") for _ in range(3)]
    threads = [threading.Thread(target=push.push, args=(world.tenant,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [other.wait(PATIENCE) for other in others] == [0, 0, 0]
    push.push(world.tenant)

    assert sum(value for _, value in world.counted()) == world.units_used() == 12_006
    assert len(world.counted()) == 12
