"""POST /quote: exact where units are known beforehand, else at least and at most; signed, and good for its holder only."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.sale import plans, prices
from inference.gateway import pricing, quotes
from inference.registry import load_public_route
from tenants.access import Actor
from tenants.keys import authenticate

QUOTE = "/api/v1/quote"
OPERATOR = Actor("operator", "usr_1")


@pytest.fixture
def priced(ready_model):
    """`priced(call=…, row=…, second=…)`: the model with that price."""

    def add(call="0", row="0", second="0"):
        amounts = {"call_price": Decimal(call), "row_price": Decimal(row), "second_price": Decimal(second)}
        prices.add_price(model=ready_model, actor=OPERATOR, **amounts)
        return ready_model

    return add


def ask(client, **body):
    return client.post(QUOTE, body, format="json")


def ask_lines(client, *lines):
    return client.post(QUOTE, b"\n".join(json.dumps(line).encode() for line in lines), content_type="application/x-ndjson")


def test_units_that_are_known_make_an_exact_quote(client_of, alice, priced):
    model = priced(call="0.001", row="0.0001")

    body = ask(client_of(alice), model=model.name, rows=5).json()

    assert (body["min"], body["max"], body["is_exact"], body["currency"]) == ("0.0015", "0.0015", True, "USD")
    [part] = body["models"]
    assert (part["model"], part["calls"], part["rows"]) == (f"catalog/{model.name}", 1, 5)
    ends = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < ends <= timedelta(minutes=15)


def test_seconds_make_a_range_up_to_the_deadline(client_of, alice, priced):
    body = ask(client_of(alice), model=priced(call="0.001", second="0.01").name, timeout=2.5).json()

    assert (body["min"], body["max"], body["is_exact"]) == ("0.001", "0.026", False)


def test_inputs_are_counted(client_of, alice, priced):
    model = priced(row="0.001")

    assert ask(client_of(alice), model=model.name, inputs=[[1, 2], [3, 4]]).json()["max"] == "0.002"
    assert ask(client_of(alice), model=model.name).json()["max"] == "0.001"


def test_a_file_of_calls_is_added_up_with_one_quote_per_model(client_of, alice, priced, private_model):
    model = priced(call="0.001", row="0.0001")
    lines = [{"model": model.name, "rows": 2}, {"model": "own"}, {"model": model.name, "rows": 3}]

    body = ask_lines(client_of(alice), *lines).json()

    assert (body["calls"], body["min"], body["max"]) == (3, "0.0025", "0.0025")
    parts = {part["model"]: part for part in body["models"]}
    assert parts[f"catalog/{model.name}"]["rows"] == 5
    assert parts[f"{alice.organization.slug}/own"]["max"] == "0.00"


def test_a_quote_is_honoured_although_another_price_has_started(client_of, alice, make_key, priced):
    model = priced(call="0.001")
    key = authenticate(make_key(alice.organization)[1])
    made = quotes.read(ask(client_of(alice), model=model.name).json()["models"][0]["quote"].encode())
    later = prices.add_price(model=model, call_price=Decimal(2), actor=OPERATOR)
    route = load_public_route("catalog", model.name)
    then = int(later.starts_at.timestamp() * 1000) + 1

    assert pricing.price_of(key, route, None, then).call_nano == 2 * 10**9
    assert pricing.price_of(key, route, made, then).call_nano == 10**6


def test_a_price_of_ones_own_is_quoted(client_of, alice, private_model):
    prices.add_price(model=None, organization=alice.organization, call_price=Decimal(1), actor=OPERATOR)

    [part] = ask(client_of(alice), model="own").json()["models"]

    assert part["price"]["call"] in ("0.00", "1.00")  # it starts seconds later


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0}, {"rows": -1}, {"rows": 10**9}, {"rows": "5"}, {"rows": 1.5}, {"inputs": []}, {"inputs": 5},
        {"rows": 1, "inputs": [1]}, {"timeout": 0}, {"timeout": -1}, {"timeout": 61}, {"timeout": "x"}, {"model": 5},
        {"more": 1},
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(client_of, alice, priced, wrong):
    answer = ask(client_of(alice), **({"model": priced().name} | wrong))

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["field"] in wrong


def test_a_call_names_its_model(client_of, alice):
    answer = ask(client_of(alice), rows=1)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "model")


def test_a_wrong_line_is_named(client_of, alice, priced):
    model = priced()

    answer = ask_lines(client_of(alice), {"model": model.name}, {"model": model.name, "rows": 0})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "2.rows"
    unknown = ask_lines(client_of(alice), {"model": "nothing-there"})
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "1.model")
    no_object = ask_lines(client_of(alice), [1])
    assert no_object.status_code == 422


@pytest.mark.parametrize("body", [b"", b"\n\n", b"{", b"[]", b"5", b'{"model": "x"}\n{"model"'])
def test_an_unreadable_file_is_refused(client_of, alice, body):
    answer = client_of(alice).post(QUOTE, body, content_type="application/x-ndjson")

    assert answer.status_code in (400, 422)


def test_a_list_is_no_call(client_of, alice):
    assert client_of(alice).post(QUOTE, [{"model": "x"}], format="json").status_code == 400


def test_more_calls_than_a_file_may_have_are_refused(client_of, alice):
    answer = client_of(alice).post(QUOTE, b"{}\n" * 10_001, content_type="application/x-ndjson")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_model_without_a_price_has_no_quote(client_of, alice, ready_model):
    answer = ask(client_of(alice), model=ready_model.name)

    assert (answer.status_code, answer.json()["code"]) == (402, "price_missing")


def test_a_suspended_organization_gets_none(client_of, alice, priced):
    plans.set_state(alice.organization.id, "suspended", actor=OPERATOR)

    answer = ask(client_of(alice), model=priced().name)

    assert (answer.status_code, answer.json()["code"]) == (402, "account_suspended")


def test_a_quote_that_could_not_be_counted_is_refused(client_of, alice, priced):
    answer = ask(client_of(alice), model=priced(row="9000000").name, rows=1000)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_a_stranger_gets_no_quote_for_a_private_model(client_of, charlie, alice, private_model):
    for name in ("own", f"{alice.organization.slug}/own"):
        assert ask(client_of(charlie), model=name).status_code == 404


def test_a_key_asks_for_what_it_may_call(client_of, alice, make_key, priced):
    model = priced()
    limited = make_key(alice.organization, models=["catalog/other"])[1]

    assert ask(client_of(limited), model=model.name).json()["code"] == "model_not_allowed"
    assert ask(client_of(make_key(alice.organization)[1]), model=model.name).status_code == 200
