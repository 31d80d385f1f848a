"""Asynchronous predictions on the running platform: they end once, whatever happens to messages and workers on the way."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import requests

from saas.lib.ids import parse_id
from tests.e2e import models
from tests.e2e.customers import Customer, identity_model
from tests.e2e.models import slow_body
from tests.e2e.test_exactness import settled
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(180)]

IRIS = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
ENDED = {"succeeded", "failed", "canceled"}


class Caller:
    """Calls /api/v1/predictions with an API key."""

    def __init__(self, customer: Customer, key: str) -> None:
        self.customer, self.key = customer, key
        self.url = f"{customer.base_url}/api/v1/predictions"

    def ask(self, method, path="", *, request_id=None, prefer=None, **options):
        headers = {"Authorization": f"Bearer {self.key}"}
        headers |= {"X-Request-Id": request_id} if request_id else {}
        headers |= {"Prefer": prefer} if prefer else {}
        return requests.request(method, self.url + path, headers=headers, timeout=90, **options)

    def create(self, model="iris", input_=None, *, request_id=None, prefer=None, **fields):
        body = {"model": model, "input": IRIS if input_ is None else input_} | fields
        return self.ask("POST", request_id=request_id, prefer=prefer, json=body)

    def create_slow(self, rounds, **options):
        made = self.create("slow", slow_body(rounds), endpoint="infer", **options)
        assert made.status_code == 202, made.text
        return made.json()

    def get(self, prediction, **options):
        return self.ask("GET", f"/{prediction['id']}", **options).json()

    def ended(self, prediction, *, seconds=PATIENCE):
        """The prediction once it has ended."""

        def found():
            return seen if (seen := self.get(prediction))["status"] in ENDED else None

        return until(found, seconds=seconds, what=f"the end of {prediction['id']}")

    def change(self, prediction, assignments):
        """What time would do to its row: `assignments` as SQL."""
        statement = f"UPDATE inference_prediction SET {assignments} WHERE id = %s RETURNING id"
        assert len(self.customer.service.rows(statement, str(parse_id("pred", prediction["id"])))) == 1

    def charged(self, *request_ids):
        """The kinds of each request's ledger rows, once nothing is on its way any more."""
        rows = settled(self.customer.service, [self.customer])
        return [sorted(kind for request, kind, _ in rows if request == wanted) for wanted in request_ids]


@pytest.fixture(scope="module")
def alice(service):
    customer = Customer(service).unlimited()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(customer.upload, ("slow", "identity"), (models.slow(), identity_model())))
    return Caller(customer, customer.key())


@pytest.fixture
def charlie(service):
    """A stranger."""
    customer = Customer(service)
    return Caller(customer, customer.key())


def test_it_is_accepted_at_once_and_ends_with_the_answer_of_the_call(alice):
    made = alice.create(request_id="pred-first", input_=IRIS | {"top": 2})
    assert made.status_code == 202, made.text
    assert made.json()["status"] in ("starting", "processing")
    assert made.json()["urls"]["get"].endswith(f"/api/v1/predictions/{made.json()['id']}")

    found = alice.ended(made.json())

    now = requests.post(
        f"{alice.customer.base_url}/api/v1/models/iris/predict",
        json=IRIS | {"top": 2},
        headers={"Authorization": f"Bearer {alice.key}"},
        timeout=PATIENCE,
    ).json()
    assert found["status"] == "succeeded"
    assert found["output"]["predictions"] == now["predictions"]
    assert (found["model"], found["version"], found["input"]) == ("catalog/iris", now["version"], IRIS | {"top": 2})
    assert found["error"] is None
    assert found["attempts"] == 1
    assert found["metrics"]["predict_time"] > 0
    assert found["cost"] == "0.0001 USD"
    assert alice.charged("pred-first") == [["usage"]]


def test_who_prefers_to_wait_gets_the_result_at_once(alice):
    made = alice.create("slow", slow_body(1), endpoint="infer", prefer="wait=30")

    assert (made.status_code, made.json()["status"]) == (201, "succeeded")
    assert made.json()["output"]["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1], "data": [-3.0]}]
    later = alice.create_slow(300_000)
    assert alice.get(later, prefer="wait=30")["status"] == "succeeded"
    assert alice.create(prefer="wait=1000").json()["code"] == "invalid_request"


def test_lists_are_filtered_and_paged(alice):
    before = datetime.now(UTC).isoformat()
    made = [alice.create("identity", {"inputs": [[number, 0, 0]]}).json() for number in range(3)]
    for prediction in made:
        alice.ended(prediction)

    def listed(**query):
        answer = alice.ask("GET", params={"created_after": before} | query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    newest_first = [prediction["id"] for prediction in reversed(made)]
    assert [each["id"] for each in listed()["results"]] == newest_first
    assert "input" not in listed()["results"][0]
    first = listed(limit=2, model="identity", status="succeeded")
    assert [each["id"] for each in first["results"]] == newest_first[:2]
    rest = requests.get(first["next"], headers={"Authorization": f"Bearer {alice.key}"}, timeout=PATIENCE).json()
    assert ([each["id"] for each in rest["results"]], rest["next"]) == (newest_first[2:], None)
    assert listed(status="canceled")["results"] == []
    assert listed(model="catalog/iris")["results"] == []
    assert listed(created_before=before)["results"] == []
    for wrong in ({"status": "done"}, {"created_after": "yesterday"}, {"cursor": "x"}, {"limit": 0}):
        answer = alice.ask("GET", params=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), wrong


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "iris", "input": {"inputs": [["a", 1, 2, 3]]}}, 400, "invalid_tensor"),
        ({"model": "iris", "input": {"inputs": [[1, 2, 3]]}}, 400, "invalid_tensor"),
        ({"model": "iris", "input": {}}, 400, "invalid_request"),
        ({"model": "iris", "input": None}, 422, "validation_failed"),
        ({"model": "iris", "input": [1]}, 400, "invalid_request"),
        ({"model": "slow", "endpoint": "infer", "input": {"inputs": []}}, 400, "invalid_tensor"),
        ({"model": "iris", "version": "7.0.0", "input": IRIS}, 404, "not_found"),
        ({"model": "nothing", "input": IRIS}, 404, "not_found"),
        ({"model": "iris"}, 422, "validation_failed"),
        ({"model": "iris", "input": IRIS, "status": "succeeded"}, 422, "validation_failed"),
        ({"model": "iris", "input": IRIS, "organization": "catalog"}, 422, "validation_failed"),
    ],
)
def test_bad_input_is_refused_at_once(alice, body, status, code):
    answer = alice.ask("POST", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_only_keys_of_the_organization_may(alice, charlie):
    made = alice.create().json()
    paths = [("GET", f"/{made['id']}"), ("POST", f"/{made['id']}/cancel")]
    for method, path in paths:
        assert charlie.ask(method, path).status_code == 404
    assert charlie.ask("GET").json()["results"] == []
    assert charlie.create("slow", slow_body(1), endpoint="infer").status_code == 404

    for method, path in [("GET", ""), ("POST", ""), *paths]:
        assert requests.request(method, alice.url + path, json={}, timeout=PATIENCE).status_code == 401
    body = {"model": "iris", "input": IRIS}
    by_session = requests.post(alice.url, json=body, headers=alice.customer.session, timeout=PATIENCE)
    assert (by_session.status_code, by_session.json()["code"]) == (401, "api_key_missing")

    reader = Caller(alice.customer, alice.customer.key(scopes=["predictions:read"]))
    assert reader.get(made)["id"] == made["id"]
    assert reader.create().status_code == 403
    assert reader.ask("POST", f"/{made['id']}/cancel").status_code == 403
    limited = Caller(alice.customer, alice.customer.key(models=["slow"]))
    assert limited.create().json()["code"] == "model_not_allowed"


def test_endless_predictions_of_one_organization_hold_up_nobody_elses(alice, charlie):
    """There are more of them than a worker has threads."""
    endless = [alice.create_slow(10**9) for _ in range(20)]
    until(lambda: sum(alice.get(each)["status"] == "processing" for each in endless) >= 4, what="their start")

    others = charlie.ended(charlie.create().json())

    statuses = [alice.get(each)["status"] for each in endless]
    for each in endless:
        alice.ask("POST", f"/{each['id']}/cancel")
    assert others["status"] == "succeeded"
    assert 4 <= statuses.count("processing") <= 6  # fewer if an earlier one of theirs ran long
    assert statuses.count("processing") + statuses.count("starting") == 20  # none ended before


def test_what_found_no_thread_runs_when_others_of_its_organization_have_ended(alice):
    made = [alice.create("identity", {"inputs": [[number, 0, 0]]}).json() for number in range(40)]

    assert {alice.ended(each)["status"] for each in made} == {"succeeded"}


def test_the_queue_is_no_way_around_the_rate_limit(alice):
    """Creating a prediction takes from the same buckets as a call."""
    slow = Caller(alice.customer, alice.customer.key(limits={"rate": 0.01, "burst": 2}))

    assert [slow.create().status_code for _ in range(2)] == [202, 202]
    refused = slow.create()

    assert (refused.status_code, refused.json()["code"], refused.json()["limit_source"]) == (429, "rate_limited", "key")
    assert 1 < int(refused.headers["Retry-After"]) <= 100
    call = requests.post(
        f"{alice.customer.base_url}/api/v1/models/iris/predict",
        json=IRIS,
        headers={"Authorization": f"Bearer {slow.key}"},
        timeout=PATIENCE,
    )
    assert call.status_code == 429
    assert alice.create().status_code == 202


def test_what_runs_can_be_canceled_and_costs_nothing(alice):
    made = alice.create_slow(8_000_000, request_id="pred-canceled")
    until(lambda: alice.get(made)["status"] == "processing", what="the start")

    assert alice.ask("POST", f"/{made['id']}/cancel").status_code == 200

    assert alice.ended(made)["status"] == "canceled"
    again = alice.ask("POST", f"/{made['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "state_conflict")
    assert alice.charged("pred-canceled") == [[]]


def test_input_and_output_are_sealed_and_removed_when_they_expire(alice):
    made = alice.create("identity", {"inputs": [[1234.5, 0, 0]]})
    prediction = alice.ended(made.json())
    service = alice.customer.service

    def stored():
        statement = "SELECT input, output, expires_at - created_at FROM inference_prediction WHERE id = %s"
        return service.rows(statement, str(parse_id("pred", prediction["id"])))[0]

    input_, output, kept = stored()
    assert b"1234.5" in json.dumps(prediction["output"]).encode()
    assert b"1234.5" not in bytes(input_)
    assert b"1234.5" not in bytes(output)
    assert b"predictions" not in bytes(output)
    assert timedelta(hours=23) < kept < timedelta(hours=25)

    alice.change(prediction, "expires_at = now()")
    until(lambda: stored()[:2] == (None, None), what="the removal")
    found = alice.get(prediction)
    assert (found["status"], found["input"], found["output"], found["data_removed"]) == ("succeeded", None, None, True)


def test_a_large_idempotent_answer_is_kept_in_the_table_sealed_and_replayed(alice):
    x = np.arange(300_000, dtype="<f4").reshape(-1, 3)
    head = {
        "inputs": [{"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    headers = {"Authorization": f"Bearer {alice.key}", "Idempotency-Key": "large", "X-Request-Id": "large-1"}
    headers["Inference-Header-Content-Length"] = str(len(json.dumps(head)))
    url = f"{alice.customer.base_url}/v2/models/identity/infer"

    body = json.dumps(head).encode() + x.tobytes()
    first, second = (
        requests.post(url, data=body, headers=headers | {"X-Request-Id": name}, timeout=PATIENCE)
        for name in ("large-1", "large-2")
    )

    assert first.status_code == 200, first.text
    assert first.content.endswith(x.tobytes())
    assert (second.content, second.headers["Idempotent-Replayed"]) == (first.content, "true")
    statement = "SELECT sealed FROM inference_storedanswer WHERE tenant_id = %s"
    ((sealed,),) = alice.customer.service.rows(statement, alice.customer.organization)
    assert len(sealed) > x.nbytes
    assert x[:100].tobytes() not in bytes(sealed)
    assert alice.charged("large-1", "large-2") == [["usage"], []]


def test_messages_are_lost_and_workers_die_but_each_prediction_ends_once(alice):
    """One message dies with the worker that took it; while none is there one prediction is canceled, one had its attempts."""
    service = alice.customer.service
    service.kill("worker", signal.SIGSTOP)
    lost = alice.create(request_id="pred-lost").json()
    with service.state() as broker:
        until(lambda: broker.llen("infer.cpu") == 0, what="the hand-over of the message")
    service.kill("worker")
    unwanted = alice.create(request_id="pred-unwanted").json()
    assert alice.ask("POST", f"/{unwanted['id']}/cancel").json()["status"] == "canceled"
    poison = alice.create(request_id="pred-poison").json()
    alice.change(poison, "attempts = 3")
    ordinary = alice.create(request_id="pred-ordinary").json()

    assert alice.ended(ordinary)["status"] == "succeeded"
    poisoned = alice.ended(poison)
    assert (poisoned["status"], poisoned["error"]["code"]) == ("failed", "quarantined")
    waiting = alice.get(lost)
    assert (waiting["status"], waiting["attempts"]) == ("starting", 0)

    alice.change(lost, "sent_at = now() - interval '61 seconds'")

    assert alice.ended(lost)["status"] == "succeeded"
    assert alice.get(unwanted)["status"] == "canceled"
    charged = alice.charged("pred-lost", "pred-unwanted", "pred-poison", "pred-ordinary")
    assert charged == [["usage"], [], [], ["usage"]]


def test_a_prediction_whose_worker_is_killed_is_run_again_and_charged_once(alice):
    service = alice.customer.service
    made = alice.create_slow(3_000_000, request_id="pred-killed")

    def is_open():
        with service.state() as state:
            return any(len(name) == 32 for key in state.scan_iter("open:*") for name in state.hkeys(key))

    until(is_open, what="the open call")
    service.kill("worker")
    # The lease of 90 seconds would end by itself: it is what tells a dead worker from a slow one.
    alice.change(made, "next_try_at = now(), sent_at = NULL")

    found = alice.ended(made, seconds=90)

    assert (found["status"], found["attempts"]) == ("succeeded", 2)
    assert found["output"]["outputs"][0]["data"] == [3.0]
    (kinds,) = alice.charged("pred-killed")
    assert kinds.count("usage") == 1
    service.manage("verify_books")


def test_a_used_up_quota_is_refused_at_creation(service):
    customer = Customer(service)
    caller = Caller(customer, customer.key(limits={"monthly_calls": 1}))
    assert caller.ended(caller.create(request_id="pred-quota").json())["status"] == "succeeded"

    refused = caller.create(request_id="pred-over")

    assert (refused.status_code, refused.json()["code"], refused.json()["limit_source"]) == (429, "quota_exceeded", "key")
