"""Receipts over HTTP: asked for, signed, and the very bytes that the ledger says of the call."""

import base64
import hashlib
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from billing.proof.receipts import SELECTED, of_row
from saas.lib.signing import SigningKeys, is_signed
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers
PREDICT, INFER = "/api/v1/models/iris/predict", "/v2/models/iris/infer"
ROWS = {"inputs": [[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5]]}
TENSOR = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}


@pytest.fixture
def ask(service):
    def send(path, body, **headers):
        """(header lines by name, body, what was sent)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(service.base_url + path, data, {"Authorization": f"Bearer {service.api_key}", **named})
        with urlopen(request, timeout=PATIENCE) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read(), data

    return send


@pytest.fixture
def row_of(service):
    def find(call):
        [row] = until(lambda: service.rows(f"SELECT {SELECTED} FROM usage_event WHERE call_id = %s", call), what="its row")
        return row

    return find


@pytest.fixture
def infer_input(service):
    request = Request(service.base_url + "/v2/models/iris", headers={"Authorization": f"Bearer {service.api_key}"})
    with urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)["inputs"][0]["name"]


def opened(receipt):
    version, statement, signature = receipt.split(".")
    return int(version), *(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (statement, signature))


def public_keys(service):
    return SigningKeys.parse(service.environment["SIGNING_KEYS"]).public()


def test_a_receipt_is_signed_and_says_what_the_ledger_says(service, ask, row_of):
    headers, answer, sent = ask(PREDICT, ROWS, X_Maas_Receipt="1")
    version, statement, signature = opened(headers["x-maas-receipt"])
    said = json.loads(statement)

    assert is_signed(public_keys(service)[version], b"receipt", statement, signature)
    assert said["rows"] == 2
    model, request, response = said["digests"].split(":")
    assert (request, response) == (hashlib.sha256(sent).hexdigest(), hashlib.sha256(answer).hexdigest())
    [[digest]] = service.rows("SELECT digest FROM inference_modelversion WHERE id = %s", said["version"])
    assert model == digest
    assert of_row(row_of(said["call"])) == statement


def test_both_dialects_give_one_and_large_bodies_too(service, ask, row_of, infer_input):
    tensor = TENSOR["inputs"][0] | {"name": infer_input}
    large = tensor | {"shape": [20_000, 4], "data": tensor["data"] * 20_000}
    for inputs in ([tensor], [large]):
        headers, answer, sent = ask(INFER, {"inputs": inputs}, X_Maas_Receipt="1")
        _, statement, _ = opened(headers["x-maas-receipt"])
        said = json.loads(statement)
        assert said["digests"].split(":")[1:] == [hashlib.sha256(sent).hexdigest(), hashlib.sha256(answer).hexdigest()]
        assert of_row(row_of(said["call"])) == statement


def test_a_replay_brings_the_receipt_of_the_first_call(ask):
    first, _, _ = ask(PREDICT, ROWS, X_Maas_Receipt="1", Idempotency_Key="receipt-1")
    again, _, _ = ask(PREDICT, ROWS, X_Maas_Receipt="1", Idempotency_Key="receipt-1")

    assert again["idempotent-replayed"] == "true"
    assert again["x-maas-receipt"] == first["x-maas-receipt"]


@pytest.mark.parametrize("wanted", [{}, {"X_Maas_Receipt": "0"}])
def test_who_does_not_ask_gets_none(ask, wanted):
    headers, _, _ = ask(PREDICT, ROWS, **wanted)

    assert "x-maas-receipt" not in headers


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_another_value_is_refused(ask, path):
    with pytest.raises(HTTPError) as refused:
        ask(path, ROWS if path == PREDICT else TENSOR, X_Maas_Receipt="yes")

    with refused.value as answer:
        assert answer.code == 400
        assert json.load(answer)["code"] == "invalid_request"


def test_a_failed_call_has_none(ask):
    with pytest.raises(HTTPError) as refused:
        ask(PREDICT, {"inputs": [["x"]]}, X_Maas_Receipt="1")

    with refused.value as answer:
        assert "x-maas-receipt" not in {name.lower() for name in answer.headers}


def test_the_public_keys_are_told(service):
    request = Request(service.base_url + "/api/v1/billing/signing-keys", headers={"Authorization": f"Bearer {service.api_key}"})
    with urlopen(request, timeout=PATIENCE) as answer:
        told = json.load(answer)

    keys = public_keys(service)
    assert told == {
        "current": 1,
        "keys": [{"version": 1, "algorithm": "Ed25519", "public_key": base64.b64encode(keys[1]).decode()}],
    }
