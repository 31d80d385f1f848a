"""Prices: added, never changed, and known to gateways before they start."""

from datetime import timedelta
from decimal import Decimal

import psycopg2
import pytest
from django.utils import timezone

from saas.lib.errors import StateConflict, ValidationFailed
from tenants.access import Actor
from tests.racing import at_once

OPERATOR = Actor("operator", "usr_1")


@pytest.fixture
def add_price():
    from billing.sale import prices

    def add(model=None, **columns):
        columns = {name: Decimal(value) if name.endswith("_price") else value for name, value in columns.items()}
        return prices.add_price(model=model, actor=OPERATOR, **columns)

    return add


def everybodys(model):
    from billing.sale.prices import everybodys
    from tenants.scope import tenant_scope

    with tenant_scope(None):
        return everybodys([model.id]).get(model.id, [])


def terms_of(organization):
    from tenants.keys import load_key
    from tenants.models import ApiKey
    from tenants.principal import unpack_key
    from tenants.scope import tenant_scope

    with tenant_scope(organization.id):
        public_id = ApiKey.objects.of(organization).latest("created_at").public_id
    return unpack_key(load_key(public_id)).terms


def test_the_first_price_of_a_model_starts_at_once(add_price, public_model):
    row = add_price(public_model, call_price="0.00012", row_price="0.000000001", second_price="2.5", reason="it begins")

    [price] = everybodys(public_model)
    assert (price.version, price.currency) == (row.version, "USD")
    assert (price.call_nano, price.row_nano, price.second_nano) == (120_000, 1, 2_500_000_000)
    assert price.starts_ms <= timezone.now().timestamp() * 1000
    assert (row.actor, row.reason) == ("operator usr_1", "it begins")


def test_the_next_one_starts_when_every_gateway_can_know_it_and_both_are_told(add_price, public_model):
    first = add_price(public_model, call_price="1")
    second = add_price(public_model, call_price="2")

    assert second.starts_at > timezone.now() + timedelta(seconds=5)
    assert [price.version for price in everybodys(public_model)] == [first.version, second.version]


def test_each_currency_has_prices_of_its_own(add_price, public_model):
    add_price(public_model, call_price="1")
    add_price(public_model, call_price="0.9", currency="EUR")

    assert {price.currency for price in everybodys(public_model)} == {"USD", "EUR"}


def test_a_price_of_one_organization_reaches_its_keys_and_nobody_else(
    add_price, public_model, alice, charlie, make_key, as_role
):
    make_key(alice.organization), make_key(charlie.organization)

    row = add_price(public_model, organization=alice.organization, call_price="0.5")

    [price] = terms_of(alice.organization).overrides[public_model.id.hex]
    assert (price.version, price.call_nano) == (row.version, 500_000_000)
    assert terms_of(charlie.organization).overrides == {}
    assert everybodys(public_model) == []
    seen = as_role("app", charlie.organization.id)
    seen.execute("SELECT count(*) FROM price_version WHERE version = %s", [row.version])
    assert seen.fetchone() == (0,)


def test_a_private_models_price_is_its_organizations_alone(add_price, private_model, alice, make_key):
    make_key(alice.organization)

    row = add_price(private_model, second_price="1")

    assert row.organization_id == alice.organization.id
    assert list(terms_of(alice.organization).overrides) == [private_model.id.hex]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"call_price": "-0.01"}, "call_price"),
        ({"row_price": "9000000.000000001"}, "row_price"),
        ({"second_price": "0.0000000001"}, "second_price"),
        ({"call_price": "NaN"}, "call_price"),
        ({"currency": "XXX"}, "currency"),
        ({"currency": "usd"}, "currency"),
        ({"starts_at": timezone.now() - timedelta(days=1)}, "starts_at"),
    ],
)
def test_what_is_wrong_with_a_price_is_said_by_field(add_price, public_model, wrong, field):
    with pytest.raises(ValidationFailed) as refused:
        add_price(public_model, **wrong)

    assert field in [error["field"] for error in refused.value.errors]
    assert everybodys(public_model) == []


def test_a_price_cannot_follow_another_sooner_than_gateways_can_know_it(add_price, public_model):
    add_price(public_model)

    with pytest.raises(ValidationFailed, match="cannot be added"):
        add_price(public_model, call_price="1", starts_at=timezone.now() + timedelta(seconds=2))


def test_a_price_is_of_something(add_price):
    with pytest.raises(ValidationFailed):
        add_price(None)


def test_a_private_model_has_no_price_for_another_organization(add_price, private_model, charlie):
    with pytest.raises(ValidationFailed) as refused:
        add_price(private_model, organization=charlie.organization)

    assert [error["field"] for error in refused.value.errors] == ["organization"]


def test_of_two_prices_with_one_start_one_is_refused(add_price, public_model):
    starts_at = timezone.now() + timedelta(hours=1)

    def attempt(price):
        def run():
            try:
                return add_price(public_model, call_price=price, starts_at=starts_at)
            except StateConflict as error:
                return error

        return run

    outcomes = at_once(attempt("1"), attempt("2"))

    assert [isinstance(outcome, StateConflict) for outcome in outcomes].count(True) == 1
    assert len(everybodys(public_model)) == 1


@pytest.mark.parametrize("role", ["app", "metering", "ops", "owner"])
@pytest.mark.parametrize("table", ["price_version", "plan", "plan_version"])
def test_nobody_changes_or_removes_what_was_for_sale(as_role, role, table):
    cursor = as_role(role)
    column = "slug" if table == "plan" else "currency"
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.mark.parametrize("role", ["app", "metering"])
@pytest.mark.parametrize("table", ["price_version", "plan", "plan_version", "subscription"])
def test_requests_and_the_drain_add_nothing_for_sale(as_role, role, table):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_role(role).execute(f"INSERT INTO {table} DEFAULT VALUES")


def test_gateways_are_told_of_a_new_price(add_price, ready_model, lanes):
    from inference.routes import unpack_route

    row = add_price(ready_model, call_price="1")

    [price] = unpack_route(lanes.get(f"route:public:catalog:{ready_model.name}")).prices
    assert price.version == row.version


def test_keys_are_told_of_a_price_of_their_organization(add_price, public_model, alice, make_key):
    from tenants.databases import as_operator
    from tenants.models import RecordChange

    key, _ = make_key(alice.organization)
    with as_operator():
        before = RecordChange.objects.filter(name=f"key:{key.public_id}").count()

    add_price(public_model, organization=alice.organization)

    with as_operator():
        assert RecordChange.objects.filter(name=f"key:{key.public_id}").count() == before + 1
