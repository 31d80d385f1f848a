"""Each amount in the ledger is what the price book makes of the row's units, and `verify_books` says where it is not."""

from decimal import Decimal

import pytest

from billing.ledger.verify import differences
from billing.sale import prices
from inference.gateway import pricing
from tenants.access import Actor
from tests.billing.journal import settle, usage


@pytest.fixture
def price(alice, private_model):
    """Alice's own: 0.001 a call, 0.00001 a row, 0.3 a second."""
    amounts = {"call_price": Decimal("0.001"), "row_price": Decimal("0.00001"), "second_price": Decimal("0.3")}
    return prices.add_price(model=private_model, actor=Actor("operator"), **amounts)


def record(alice, price, *, by=0, **given):
    from billing.sale.terms import price_of

    units = {"rows": 3, "compute_us": 7} | given
    exact = pricing.exact(price_of(price), units["rows"], units["compute_us"]) + by
    return usage(alice.organization.id, price_version=price.version, nano=exact, max_nano=10**12, **units)


def said(alice):
    return [line for line in differences() if str(alice.organization.id) in line and line.startswith("price ")]


@pytest.mark.parametrize(
    "units", [{}, {"rows": 0, "compute_us": 0}, {"rows": 1000, "compute_us": 1}, {"compute_us": 59_999_999}]
)
def test_what_gateways_charge_is_what_the_book_says(alice, price, state, journal, units):
    journal.add(record(alice, price, **units))
    settle(state, journal.name)

    assert said(alice) == []


@pytest.mark.parametrize("by", [1, -1])
def test_an_amount_that_is_off_by_one_is_named(alice, price, state, journal, by):
    wrong = record(alice, price, by=by)
    journal.add(record(alice, price), wrong, record(alice, price))
    settle(state, journal.name)

    [line] = said(alice)
    assert f"price {price.version}" in line
    assert " 1 rows " in line
    assert wrong.call in line.replace("-", "")


def test_what_was_clamped_or_reversed_is_as_it_should_be(alice, price, state, journal):
    journal.add(
        record(alice, price, by=-5, is_clamped=True),
        usage(alice.organization.id, price_version=price.version, kind="reversed", nano=0),
    )
    settle(state, journal.name)

    assert said(alice) == []
