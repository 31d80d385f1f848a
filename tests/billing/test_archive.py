"""Receipts after the fact."""

import json

import pytest

from billing.verify_bill import Verifier
from saas.lib.ids import shown, uuid7
from tests.billing.journal import settle, usage

URL = "/api/v1/billing/receipts"
BILL = "/api/v1/billing/bill"


@pytest.fixture
def reader(client_of, make_key, organization, calls):
    _, key = make_key(organization, scopes=["billing:read"])
    return client_of(key)


def test_any_call_of_the_ledger_has_a_receipt_that_its_bill_holds(reader, calls, month):
    found = reader.get(URL, {"call": [shown("call", uuid7(1)), calls[0].call, "call_" + calls[7].call]}).json()["results"]

    assert [receipt["statement"]["call"] for receipt in found] == [calls[0].call, calls[7].call]
    assert [receipt["seal"]["number"] for receipt in found] == [1, 2]
    lines = b"".join(reader.get(BILL, {"format": "ndjson", "month": str(month)}).streaming_content).decode().splitlines()
    verifier = Verifier(lines, [receipt["receipt"] for receipt in found])
    verifier.run()
    assert [problem for problem in verifier.problems if "receipt" in problem] == []


def test_before_its_hour_is_sealed_a_call_has_no_seal(reader, organization, journal, state):
    fresh = usage(organization.id)
    journal.add(fresh, at_ms=fresh.closed_ms + 10**7)
    settle(state, journal.name)

    [receipt] = reader.get(URL, {"call": fresh.call}).json()["results"]

    assert receipt["seal"] is None
    assert receipt["statement"]["amount_nano"] == fresh.nano


def test_a_strangers_call_does_not_exist(client_of, charlie, calls):
    assert client_of(charlie).get(URL, {"call": calls[0].call}).json() == {"results": []}


@pytest.mark.parametrize("call", ["x", "key_" + 32 * "0", 33 * "0", ["0" * 32] * 101])
def test_what_are_no_ids_is_refused(client_of, alice, call):
    response = client_of(alice).get(URL, {"call": call})

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["call"]


def test_an_id_of_a_day_that_the_calendar_does_not_have_is_nobodys(client_of, alice):
    assert json.loads(client_of(alice).get(URL, {"call": "f" * 32}).content) == {"results": []}
