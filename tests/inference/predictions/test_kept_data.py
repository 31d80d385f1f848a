"""The cap on the bytes of inputs and answers that are kept: refused beyond it, counted exactly, free when they expire."""

from types import SimpleNamespace
from uuid import UUID

import pytest
from django.db import connection
from django.db.models import F, Func, IntegerField, Sum
from django.utils import timezone

from inference.gateway.call import Rendered
from inference.gateway.stored import MAX_IN_BOOKS, ROW, Answers
from inference.predictions.attempts import build_call
from inference.predictions.models import KeptData, Prediction, Status, StoredAnswer
from inference.predictions.tasks import _finish, _take, sweep
from saas.lib.errors import LimitReached
from saas.lib.ids import uuid7
from tenants.databases import as_operator
from tenants.keys import load_key
from tenants.principal import unpack_key
from tenants.scope import tenant_scope
from tests.racing import one_wins

URL = "/api/v1/predictions"
INPUT = b'{"inputs": [[1, 2, 3]]}'
SEALED = len(INPUT) + 46  # format, algorithm, data key id, nonce and tag


@pytest.fixture
def cap(alice):
    """`cap(bytes)`: so many Alice's organization may keep."""
    from tenants.actions import set_organization_limits

    return lambda limit: set_organization_limits(alice.organization.id, max_data_bytes=limit)


def create(client):
    return client.post(URL, b'{"model": "mine", "input": %b}' % INPUT, content_type="application/json")


def counted(alice):
    with tenant_scope(alice.organization.id):
        return KeptData.objects.filter(organization=alice.organization).values_list("bytes", flat=True).first() or 0


def kept(alice):
    """What is really there."""

    def size(rows, column):
        length = Func(F(column), function="octet_length", output_field=IntegerField())
        return rows.aggregate(all=Sum(length, default=0))["all"]

    with tenant_scope(alice.organization.id):
        predictions = Prediction.objects.of(alice.organization)
        answers = StoredAnswer.objects.of(alice.organization)
        return size(predictions, "input") + size(predictions, "output") + size(answers, "sealed")


def claimed(alice):
    with tenant_scope(alice.organization.id):
        (row,) = Prediction.objects.of(alice.organization).filter(status=Status.STARTING)
        return Prediction.objects.of(alice.organization).claim(row.pk)


def keyed(caller, alice, size):
    """A call with an Idempotency-Key, and its packed answer of so many bytes."""
    key = unpack_key(load_key(alice.key.split("_")[2][:12]))
    return SimpleNamespace(id=uuid7().hex, key=key, idempotency_key="k"), bytes(size)


def test_what_does_not_fit_is_refused_and_not_kept(caller, alice, cap):
    cap(2 * SEALED - 1)
    assert create(caller).status_code == 202
    refused = create(caller)

    assert (refused.status_code, refused.json()["code"]) == (409, "limit_reached")
    assert refused.json()["errors"][0] | {"detail": ""} == {
        "field": "data_bytes", "limit": 2 * SEALED - 1, "used": SEALED, "detail": "",
    }  # fmt: skip
    assert counted(alice) == kept(alice) == SEALED
    shown = caller.get("/api/v1/limits").json()["organization"]["data_bytes"]
    assert shown == {"limit": 2 * SEALED - 1, "used": SEALED, "left": SEALED - 1}


def test_of_predictions_that_want_the_last_bytes_one_gets_them(caller, client_of, alice, cap):
    cap(2 * SEALED - 1)

    one_wins(create, [(client_of(alice.key),) for _ in range(6)], won=202)

    assert counted(alice) == kept(alice) == SEALED


def test_what_expires_is_free_again(caller, alice, cap):
    cap(SEALED)
    create(caller)
    with as_operator():
        Prediction.objects.filter(organization=alice.organization).update(expires_at=timezone.now())
    assert create(caller).status_code == 409

    sweep()

    assert counted(alice) == kept(alice) == 0
    assert create(caller).status_code == 202


def test_an_answer_that_is_stored_counts_until_it_expires_and_one_that_does_not_fit_is_refused(caller, alice, cap):
    call, packed = keyed(caller, alice, MAX_IN_BOOKS)
    cap(len(packed) + 46)
    assert Answers().seal(call, packed) == ROW + UUID(call.id).bytes
    assert counted(alice) == kept(alice) == len(packed) + 46

    call, packed = keyed(caller, alice, MAX_IN_BOOKS)
    with pytest.raises(LimitReached):
        Answers().seal(call, packed)
    assert counted(alice) == kept(alice) == len(packed) + 46
    assert not Answers().seal(call, b"small").startswith(ROW)

    with as_operator():
        StoredAnswer.objects.filter(organization=alice.organization).update(expires_at=timezone.now())
    sweep()
    assert counted(alice) == kept(alice) == 0
    Answers().seal(call, packed)


@pytest.mark.parametrize("size", [MAX_IN_BOOKS, 2 * MAX_IN_BOOKS])
def test_no_connection_stays_that_a_large_answer_passed_through(caller, alice, size):
    call, packed = keyed(caller, alice, size)

    stored = Answers().seal(call, packed)
    assert connection.connection is None
    assert Answers().unseal(call, stored) == packed
    assert connection.connection is None


def test_a_result_is_kept_once_with_its_prediction(caller, alice, cap):
    create(caller)
    row = claimed(alice)
    call = build_call(row, INPUT)
    call.id, answer = uuid7().hex, bytes(2 * MAX_IN_BOOKS)
    Answers().seal(call, answer)
    assert kept(alice) > len(answer)

    _finish(row, call, Rendered(200, [], answer))

    assert counted(alice) == kept(alice) == SEALED + len(answer) + 46


def test_a_prediction_that_begins_without_room_fails_free(caller, alice, cap):
    created = create(caller).json()["id"]
    cap(SEALED)
    with tenant_scope(alice.organization.id):
        (row,) = Prediction.objects.of(alice.organization)

    assert _take(alice.organization.id, row.pk) is None
    shown = caller.get(f"{URL}/{created}").json()
    assert (shown["status"], shown["error"]["code"], shown["cost"]) == ("failed", "limit_reached", None)


def test_a_later_attempt_whose_answer_may_be_paid_for_is_not_stopped_by_the_cap(caller, alice, cap):
    create(caller)
    cap(SEALED)
    with tenant_scope(alice.organization.id):
        Prediction.objects.of(alice.organization).update(attempts=1)
        (row,) = Prediction.objects.of(alice.organization)

    assert _take(alice.organization.id, row.pk) is not None
