"""POST /api/v1/predictions: what an Idempotency-Key does there, and what is refused. Nothing runs: there is no worker."""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections, transaction
from django.utils import timezone

from inference.predictions.models import Prediction, Status
from inference.predictions.tasks import sweep
from tenants import keys
from tenants.databases import as_operator
from tenants.principal import Limits
from tenants.scope import tenant_scope

URL = "/api/v1/predictions"
BODY = {"model": "mine", "input": {"inputs": [[1, 2, 3]]}}


def create(client, body=BODY, key="first", **headers):
    given = {"Idempotency-Key": key} if key is not None else {}
    return client.post(URL, body, format="json", headers=given | headers)


def rows(alice):
    with tenant_scope(alice.organization.id):
        return list(Prediction.objects.of(alice.organization))


def test_a_repeated_request_gets_the_same_prediction(caller, alice):
    made, again, quoted = create(caller), create(caller), create(caller, key='"first"')

    assert (made.status_code, again.status_code, quoted.status_code) == (202, 202, 202)
    assert made.json()["id"] == again.json()["id"] == quoted.json()["id"]
    assert "Idempotent-Replayed" not in made
    assert again["Idempotent-Replayed"] == "true"
    assert len(rows(alice)) == 1


def test_a_request_with_another_header_that_cuts_its_body_is_another_one(caller, alice):
    create(caller)
    cut = create(caller, **{"Inference-Header-Content-Length": "2"})
    said = create(caller, **{"Accept": "application/json"})

    assert (cut.status_code, cut.json()["code"]) == (422, "idempotency_key_reused")
    assert said.status_code == 202
    assert len(rows(alice)) == 1


def test_a_repeated_request_is_answered_as_the_prediction_stands_now(caller, alice):
    create(caller)
    (row,) = rows(alice)
    with tenant_scope(alice.organization.id):
        row.finish(Status.FAILED, error_code="model_failed")

    again = create(caller)

    assert (again.status_code, again.json()["status"]) == (200, "failed")


def test_the_key_with_another_body_is_refused(caller, alice):
    create(caller)
    other = create(caller, BODY | {"input": {"inputs": [[3, 2, 1]]}})

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(rows(alice)) == 1


def test_without_a_key_and_with_another_one_each_request_is_new(caller, alice):
    for key in (None, None, "first", "second"):
        assert create(caller, key=key).status_code == 202

    assert len(rows(alice)) == 4


def test_keys_of_another_organization_are_others(caller, client_of, charlie, make_key, publish):
    publish(charlie.organization, "mine")
    made = create(caller)
    other = create(client_of(make_key(charlie.organization)[1]))

    assert other.status_code == 202
    assert other.json()["id"] != made.json()["id"]
    assert "Idempotent-Replayed" not in other


def test_keys_of_test_mode_are_others(caller, alice, client_of, make_key):
    tester = client_of(make_key(alice.organization, mode="test")[1])
    tried = create(tester)
    made = create(caller)

    assert (tried.status_code, made.status_code) == (202, 202)
    assert "Idempotent-Replayed" not in made
    assert {row.shown_id: row.mode for row in rows(alice)} == {tried.json()["id"]: "test", made.json()["id"]: "live"}
    for client, first in ((tester, tried), (caller, made)):
        again = create(client)
        assert (again.json()["id"], again["Idempotent-Replayed"]) == (first.json()["id"], "true")


def test_the_migration_tells_which_predictions_test_keys_made(caller, alice, client_of, make_key):
    create(client_of(make_key(alice.organization, mode="test")[1]))
    create(caller, key="second")
    with as_operator():
        Prediction.objects.filter(organization_id=alice.organization.id).update(mode="live")
    migration = importlib.import_module("inference.migrations.0013_modes_from_keys")

    with transaction.atomic(using="owner"), connections["owner"].cursor() as cursor:
        cursor.execute(migration.TELL)

    assert {row.idempotency_key: row.mode for row in rows(alice)} == {"first": "test", "second": "live"}
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT has_any_column_privilege('maas_door', 'inference_prediction', 'UPDATE')")
        assert cursor.fetchone() == (False,)


def test_of_concurrent_requests_one_makes_the_prediction(caller, client_of, alice):
    def ask(_):
        try:
            return create(client_of(alice.key))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(16)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer for answer in answers) == 1
    assert len(rows(alice)) == 1


@pytest.mark.parametrize("key", ["", "two words", "ä", "x" * 256, '"open'])
def test_a_key_that_is_none_is_refused(caller, alice, key):
    refused = create(caller, key=key)

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert rows(alice) == []


def test_many_test_keys_make_no_more_predictions_than_one(alice, client_of, make_key, publish, monkeypatch):
    monkeypatch.setattr(keys, "TEST_LIMITS", Limits(0.001, 2, 1))
    publish(alice.organization, "mine")
    clients = [client_of(make_key(alice.organization, mode="test")[1]) for _ in range(3)]

    answers = [create(client, key=None) for client in clients]
    live = create(client_of(make_key(alice.organization)[1]), key=None)

    assert [answer.status_code for answer in (*answers, live)] == [202, 202, 429, 202]
    assert (answers[2].json()["code"], answers[2].json()["limit_source"]) == ("rate_limited", "organization")


def test_a_replay_takes_from_the_rate_limit(alice, client_of, make_key, publish):
    publish(alice.organization, "mine")
    client = client_of(make_key(alice.organization, rate=0.01, burst=2)[1])

    assert [create(client).status_code for _ in range(3)] == [202, 202, 429]


def test_a_key_that_may_not_call_the_model_gets_no_replay(caller, alice, client_of, make_key):
    create(caller)
    limited = create(client_of(make_key(alice.organization, models=["other"])[1]))

    assert (limited.status_code, limited.json()["code"]) == (403, "model_not_allowed")


def test_keys_are_forgotten_after_two_days(caller, alice):
    first, fresh = create(caller), create(caller, key="fresh")
    with as_operator():
        old = Prediction.objects.filter(organization_id=alice.organization.id, idempotency_key="first")
        old.update(created_at=timezone.now() - timedelta(hours=48, seconds=1))
    sweep()

    again = create(caller)
    assert again.status_code == 202
    assert again.json()["id"] != first.json()["id"]
    assert create(caller, key="fresh").json()["id"] == fresh.json()["id"]


def test_an_input_is_shown_as_it_came_digit_by_digit(caller):
    text = b'{"model": "mine", "input": {"inputs": [[1.10, 2e0, 1000000000000000000000000]]}}'
    created = caller.post("/api/v1/predictions", text, content_type="application/json")

    assert created.status_code == 202
    assert b'{"inputs": [[1.10, 2e0, 1000000000000000000000000]]}' in created.content
    assert (
        b'{"inputs": [[1.10, 2e0, 1000000000000000000000000]]}'
        in caller.get(f"/api/v1/predictions/{created.json()['id']}").content
    )


@pytest.mark.parametrize(
    "text",
    [
        b'{"model": "mine", "input": {"note": "\xff", "inputs": [[1, 2, 3]]}}',
        b'{"model": "mine", "input": {"note": "\\ud800", "inputs": [[1, 2, 3]]}}',
        b'{"model": "mine", "input": {"note": [' + b"[" * 5000 + b"]" * 5000 + b'], "inputs": [[1, 2, 3]]}}',
        b'{"model": "mine", "input": {"inputs": [[1e999, 2, 3]]}}',
        b'{"model": "mine", "input": {"inputs": [[1, 2, 3]]}',
        b'{"model": "mine", "input": ' + b"[]," * 100_001 + b"[]}",
        b'[{"model": "mine"}]',
    ],
    ids=["no UTF-8", "half a pair", "deep", "beyond a double", "cut off", "more lists than may be decoded", "no object"],
)
def test_what_is_no_json_of_ours_is_refused_before_it_is_kept(caller, alice, text):
    refused = caller.post("/api/v1/predictions", text, content_type="application/json")

    assert (refused.status_code, refused.json()["code"]) in [(400, "invalid_request"), (400, "invalid_tensor")]
    with tenant_scope(alice.organization.id):
        assert not Prediction.objects.of(alice.organization).exists()


def test_an_input_that_is_missing_is_named(caller):
    refused = caller.post("/api/v1/predictions", {"model": "mine"}, format="json")

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "input")


@pytest.mark.parametrize("field", ["model", "version"])
def test_a_number_is_no_text(caller, field):
    refused = create(caller, BODY | {field: 5})

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


def test_a_body_may_be_as_large_as_a_call_and_no_larger(caller):
    pad = json.dumps(BODY)[:-1] + ' , "version": "production"' + " " * (10 << 20) + "}"

    assert caller.post(URL, pad, content_type="application/json").status_code == 202
    refused = caller.post(URL, pad + " " * (7 << 20), content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
