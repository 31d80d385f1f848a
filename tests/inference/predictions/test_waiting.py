"""Waiting for a prediction with `Prefer: wait`: what it costs meanwhile, how many may, and when it ends."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from django.db import connection, connections

from inference.predictions.models import Prediction, Status
from inference.predictions.waiting import PLACES, Places, wait_until_finished
from saas.lib.ids import parse_id
from tenants.scope import tenant_scope
from tests.waiting import until

URL = "/api/v1/predictions"
BODY = {"model": "mine", "input": {"inputs": [[1, 2, 3]]}}


@pytest.fixture
def made(caller) -> UUID:
    return parse_id("pred", caller.post(URL, BODY, format="json").json()["id"])


def finish(organization, pk):
    with tenant_scope(organization.id):
        Prediction.objects.of(organization).get(pk=pk).finish(Status.FAILED, error_code="model_failed")


def test_while_it_waits_it_reads_the_status_only_and_has_no_transaction_open(alice, made):
    statements, looks = [], []

    def note(execute, sql, *rest):
        statements.append(sql)
        return execute(sql, *rest)

    def has_left():
        looks.append(connection.in_atomic_block)
        if len(looks) == 5:
            finish(alice.organization, made)
            statements.clear()
        return False

    with connection.execute_wrapper(note):
        wait_until_finished(alice.organization.id, made, 60, has_left)

    assert looks == [False] * 5
    assert [sql.partition(" FROM ")[0] for sql in statements if sql.startswith('SELECT "')] == [
        'SELECT "inference_prediction"."status" AS "status"'
    ]


def test_it_ends_when_the_client_leaves(alice, made):
    answers = iter([False, False, True])
    wait_until_finished(alice.organization.id, made, 3600, lambda: next(answers))

    assert list(answers) == []


def test_it_ends_when_the_prediction_is_gone(alice):
    wait_until_finished(alice.organization.id, uuid4(), 3600, lambda: False)


def test_places_are_few_for_an_organization_and_for_all():
    places = Places(overall=3, per_organization=2)
    one, two = uuid4(), uuid4()
    with places.take(one) as first, places.take(one) as second, places.take(one) as third:
        assert (first, second, third) == (True, True, False)
        with places.take(two) as other, places.take(uuid4()) as too_many:
            assert (other, too_many) == (True, False)
    assert not places.taken


def test_who_finds_no_place_is_answered_at_once_and_the_others_when_it_is_finished(alice, client_of, caller, made):
    shown = f"{URL}/pred_{made.hex}"

    def ask(_):
        try:
            return client_of(alice.key).get(shown, headers={"Prefer": "wait=60"})
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(ask, number) for number in range(2)]
        until(lambda: PLACES.taken[alice.organization.id] == 2)
        refused = caller.get(shown, headers={"Prefer": "wait=60"})
        assert (refused.json()["status"], [each.done() for each in waiting]) == ("starting", [False, False])
        finish(alice.organization, made)

    assert [each.result().json()["status"] for each in waiting] == ["failed"] * 2


def test_a_client_that_is_watched_ends_its_wait_by_leaving(caller, made):
    left = []
    answer = caller.get(
        f"{URL}/pred_{made.hex}",
        headers={"Prefer": "wait=60"},
        **{"asgi.scope": {"watch_client": lambda: left.append(True) or (lambda: True)}},
    )

    assert (answer.json()["status"], left) == ("starting", [True])
