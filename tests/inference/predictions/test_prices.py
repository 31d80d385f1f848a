"""What a prediction costs is looked at when it is created, and known when it has succeeded."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from billing.sale import plans, prices
from inference.gateway import headers, quotes
from inference.gateway.call import Rendered
from inference.gateway.quotes import Quote
from inference.predictions.attempts import build_call
from inference.predictions.models import Prediction
from inference.predictions.tasks import _finish
from saas.lib.ids import uuid7
from saas.lib.prices import Price
from tenants.access import Actor
from tenants.actions import catalog_organization
from tenants.scope import tenant_scope

URL = "/api/v1/predictions"
OPERATOR = Actor("operator")
PRICE = Price(3, 0, "USD", 7, 0, 0)


def create(client, model="mine", **sent):
    return client.post(URL, {"model": model, "input": {"inputs": [[1, 2, 3]]}}, format="json", headers=sent or None)


def rows(alice):
    with tenant_scope(alice.organization.id):
        return list(Prediction.objects.of(alice.organization))


@pytest.fixture
def quoted(alice, caller):
    """`quoted(**fields)`: a signed quote for Alice's own model."""
    from inference.models import MLModel

    with tenant_scope(alice.organization.id):
        model = MLModel.objects.of(alice.organization).get(name="mine")
    soon = int(datetime.now(UTC).timestamp() * 1000) + 60_000

    def sign(**fields):
        values = {
            "id": "q",
            "organization": alice.organization.id.hex,
            "model": model.id.hex,
            "price": PRICE,
            "expires_ms": soon,
        }
        return quotes.sign(Quote(**(values | fields)))

    return sign


def test_a_model_without_a_price_is_refused_at_creation(caller, alice, publish):
    name = f"unpriced-{alice.organization.id.hex[:12]}"
    model = publish(catalog_organization(), name, visibility="public")

    refused = create(caller, name)
    assert (refused.status_code, refused.json()["code"]) == (402, "price_missing")
    assert rows(alice) == []
    prices.add_price(model=model, call_price=Decimal(1), actor=OPERATOR)
    assert create(caller, name).status_code == 202


def test_without_credit_only_what_costs_nothing_is_taken(caller, alice, publish):
    plans.change(alice.organization.id, "prepaid", actor=OPERATOR)
    name = f"costly-{alice.organization.id.hex[:12]}"
    prices.add_price(model=publish(catalog_organization(), name, visibility="public"), call_price=Decimal(1), actor=OPERATOR)
    assert create(caller).status_code == 202

    refused = create(caller, name)

    assert (refused.status_code, refused.json()["code"]) == (402, "credit_exhausted")
    assert refused.json()["cap"] == {
        "name": "credit", "limit": "0.00", "left": "0.00", "resets_at": None, "currency": "USD",
    }  # fmt: skip
    assert len(rows(alice)) == 1


@pytest.mark.parametrize("state", ["suspended", "closed"])
def test_an_account_that_is_not_served_is_refused_at_creation(caller, alice, state):
    plans.set_state(alice.organization.id, state, actor=OPERATOR)

    refused = create(caller)

    assert (refused.status_code, refused.json()["code"]) == (402, f"account_{state}")
    assert rows(alice) == []


def test_the_quote_is_kept_however_long_the_prediction_waits(caller, alice, quoted):
    assert create(caller, **{"X-Maas-Quote": quoted()}).status_code == 202
    [row] = rows(alice)

    call = build_call(row, b'{"inputs": [[1, 2, 3]]}')

    assert call.quote.price == PRICE
    assert call.quote.expires_ms > 2**50


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"expires_ms": 1000}, 409, "quote_expired"),
        ({"organization": "b" * 32}, 422, "quote_invalid"),
        ({"model": "b" * 32}, 422, "quote_invalid"),
    ],
)
def test_a_quote_that_is_not_good_is_refused_at_creation(caller, alice, quoted, fields, status, code):
    refused = create(caller, **{"X-Maas-Quote": quoted(**fields)})

    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert rows(alice) == []


def test_a_result_says_what_it_cost(caller, alice):
    made = create(caller)
    assert (made.json()["cost"], "X-Maas-Cost" in made) == (None, False)
    [row] = rows(alice)
    with tenant_scope(alice.organization.id):
        row = Prediction.objects.of(alice.organization).claim(row.pk)
    call = build_call(row, b'{"inputs": [[1, 2, 3]]}')
    call.id = uuid7().hex

    _finish(row, call, Rendered(200, [headers.cost(120_000, "USD")], b"{}"))

    seen = caller.get(f"{URL}/{made.json()['id']}")
    assert (seen.json()["cost"], seen["X-Maas-Cost"]) == ("0.00012 USD", "0.00012 USD")


def test_results_are_kept_as_long_as_the_plan_says(caller, alice):
    plans.change(UUID(str(alice.organization.id)), "pro", actor=OPERATOR)

    create(caller)

    [row] = rows(alice)
    assert (row.expires_at - row.created_at).total_seconds() == pytest.approx(720 * 3600, abs=60)
