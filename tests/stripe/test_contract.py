"""The contract test itself: it reads the pinned SDK, and sees what is wrong with a request."""

from decimal import Decimal

import pytest

from tests.stripe.contract import endpoints, problems

pytestmark = pytest.mark.no_servers

PRICE = {"currency": "usd", "product": "prod_1"}
METER = {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
EVENT = {"event_name": "calls", "payload": {"stripe_customer_id": "cus_1", "value": "3"}, "identifier": "mt1:a:b"}


def test_it_reads_every_endpoint_of_the_sdk():
    assert len(endpoints()) == 647
    assert endpoints()["POST", "/v1/billing/meter_events"].endswith(":MeterEventCreateParams")


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("post", "/v1/billing/meters", METER),
        ("post", "/v1/billing/meter_events", EVENT),
        ("post", "/v1/prices", {**PRICE, "unit_amount_decimal": Decimal("0.0001")}),
        ("post", "/v1/prices", {**PRICE, "tiers": [{"up_to": 10, "unit_amount_decimal": Decimal(0)}, {"up_to": "inf"}]}),
        ("get", "/v1/invoices/in_1", {}),
        ("post", "/v1/invoices/create_preview", {"subscription": "sub_1", "subscription_details": {"proration_date": 5}}),
        ("post", "/v1/customers", {"email": "", "metadata": {"organization": "a"}}),
    ],
)
def test_what_is_right_passes(method, path, params):
    assert problems(method, path, params) == []


@pytest.mark.parametrize(
    ("what", "path", "params", "is_wire"),
    [
        ("colour is unknown", "/v1/prices", {**PRICE, "colour": "red"}, False),
        (
            "recurring.usage_typ is unknown",
            "/v1/prices",
            {**PRICE, "recurring": {"interval": "month", "usage_typ": "x"}},
            False,
        ),
        ("recurring.interval is 'fortnight'", "/v1/prices", {**PRICE, "recurring": {"interval": "fortnight"}}, False),
        ("currency is missing", "/v1/prices", {"product": "prod_1"}, False),
        ("recurring.interval is missing", "/v1/prices", {**PRICE, "recurring": {"usage_type": "metered"}}, False),
        ("unit_amount_decimal is 0.1", "/v1/prices", {**PRICE, "unit_amount_decimal": 0.1}, False),
        ("unit_amount is 12.5", "/v1/prices", {**PRICE, "unit_amount": 12.5}, False),
        ("unit_amount is '12.5'", "/v1/prices", {**PRICE, "unit_amount": "12.5"}, True),
        ("unit_amount is True", "/v1/prices", {**PRICE, "unit_amount": True}, False),
        ("without an exponent", "/v1/prices", {**PRICE, "unit_amount_decimal": Decimal("0.0000001")}, False),
        ("at most 12 decimals", "/v1/prices", {**PRICE, "unit_amount_decimal": Decimal("0.1234567890123")}, False),
        ("formula is 'max'", "/v1/billing/meters", {**METER, "default_aggregation": {"formula": "max"}}, False),
        ("event_time_window overwrites", "/v1/billing/meters", {**METER, "event_time_window": "hour"}, False),
        ("no such request", "/v1/subscription_items/si_1/usage_records", {"quantity": 3}, False),
        ("no such request", "/v1/usage_records", {}, False),
        ("identifier has 101 of at most 100", "/v1/billing/meter_events", {**EVENT, "identifier": "i" * 101}, False),
        ("15 digits", "/v1/billing/meter_events", {**EVENT, "payload": {"value": "1234567890123456"}}, False),
        ("whole number", "/v1/billing/meter_events", {**EVENT, "payload": {"value": "1.5"}}, False),
        ("payload.value is 3", "/v1/billing/meter_events", {**EVENT, "payload": {"value": 3}}, False),
        ("timestamp is", "/v1/billing/meter_events", {**EVENT, "timestamp": 1.5}, False),
        ("items has 21 of at most 20", "/v1/subscriptions", {"customer": "c", "items": [{"price": "p"}] * 21}, False),
        ("items[0].prise is unknown", "/v1/subscriptions", {"customer": "c", "items": [{"prise": "p"}]}, False),
        ("metadata.k is longer", "/v1/customers", {"metadata": {"k": "v" * 501}}, False),
        ("metadata has 51 of at most 50", "/v1/customers", {"metadata": {str(n): "v" for n in range(51)}}, False),
    ],
)
def test_what_is_wrong_is_seen(what, path, params, is_wire):
    found = problems("post", path, params, is_wire=is_wire)

    assert len(found) == 1
    assert what in found[0]


def test_the_idempotency_key_and_other_options_are_no_parameters():
    assert problems("post", "/v1/customers", {"idempotency_key": "k"}) == []
    assert problems("post", "/v1/customers", {"idempotency_key": "k"}, is_wire=True) != []
