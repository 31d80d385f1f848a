"""Attempts that overlap each other, or the end of the retention."""

from datetime import timedelta

import pytest
from django.utils import timezone

from inference.predictions.models import Prediction, Status
from inference.predictions.tasks import sweep
from saas.lib.ids import parse_id
from tenants.scope import tenant_scope

URL = "/api/v1/predictions"


@pytest.fixture
def rows(alice, make_key, client_of, publish):
    """Runs a function with the predictions of Alice's organization, of which there is one."""
    publish(alice.organization, "mine")
    client = client_of(make_key(alice.organization)[1])
    made = client.post(URL, {"model": "mine", "input": {"inputs": [[1, 2, 3]]}}, format="json").json()
    pk = parse_id("pred", made["id"])

    def run(do):
        with tenant_scope(alice.organization.id):
            return do(Prediction.objects.of(alice.organization), pk)

    return run


def claim(rows):
    return rows(lambda all_, pk: all_.claim(pk))


def now(rows):
    return rows(lambda all_, pk: all_.get(pk=pk))


@pytest.fixture
def two(rows):
    """An attempt that lost its lease, and the one that took over."""
    late = claim(rows)
    rows(lambda all_, pk: all_.update(next_try_at=timezone.now() - timedelta(seconds=1)))
    return late, claim(rows)


def test_an_attempt_that_lost_its_lease_neither_fails_nor_gives_back_what_another_holds(rows, two):
    late, present = two
    assert rows(lambda all_, pk: late.finish(Status.FAILED, error_code="deadline_exceeded")) is False
    rows(lambda all_, pk: late.give_back(after=timedelta(0)))

    row = now(rows)
    assert (row.status, row.attempts, row.next_try_at) == (Status.PROCESSING, 2, present.next_try_at)
    assert rows(lambda all_, pk: present.finish(Status.SUCCEEDED, output=b"answer")) is True


def test_an_attempt_that_lost_its_lease_may_still_bring_the_answer_once(rows, two):
    late, present = two
    assert rows(lambda all_, pk: late.finish(Status.SUCCEEDED, output=b"answer")) is True
    assert rows(lambda all_, pk: present.finish(Status.FAILED, error_code="model_failed")) is False

    assert (now(rows).status, bytes(now(rows).output)) == (Status.SUCCEEDED, b"answer")


def test_an_answer_that_comes_after_its_retention_is_not_kept(rows):
    running = claim(rows)
    rows(lambda all_, pk: all_.update(expires_at=timezone.now() - timedelta(seconds=1)))
    sweep()
    assert now(rows).data_removed_at is not None

    assert rows(lambda all_, pk: running.finish(Status.SUCCEEDED, output=b"answer")) is True

    assert (now(rows).status, now(rows).input, now(rows).output) == (Status.SUCCEEDED, None, None)
