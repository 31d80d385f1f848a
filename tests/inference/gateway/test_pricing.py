"""Which price a call opens at, the most it can cost, and what it did."""

from fractions import Fraction
from math import ceil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.gateway import pricing, quotes
from inference.gateway.quotes import Quote
from inference.routes import ModelRoute
from saas.lib import errors
from saas.lib.prices import FREE, Price
from tenants.principal import Terms, pack_key, unpack_key
from tests.saas.serving import key_record

pytestmark = pytest.mark.no_servers

ONE = Price(1, 1000, "USD", 10, 0, 0)
TWO = Price(2, 2000, "USD", 20, 0, 0)
EURO = Price(3, 1000, "EUR", 9, 0, 0)
OWN = Price(4, 1000, "USD", 5, 0, 0)
MODEL = "e" * 32
BUILT_IN = 0


def route(*prices, is_public=True):
    return ModelRoute(MODEL, "m", "c" * 32, "catalog", is_public=is_public, task="tensor", prices=list(prices))


def key(mode="live", **terms):
    return key_record(mode=mode, terms=Terms(**terms))


def price_at(now_ms, *prices, is_public=True, quote=None, **terms):
    return pricing.price_of(key(**terms), route(*prices, is_public=is_public), quote, now_ms).version


def quote(**fields):
    return Quote(**({"id": "q", "organization": "a" * 32, "model": MODEL, "price": ONE, "expires_ms": 9000} | fields))


@pytest.mark.parametrize(("now_ms", "version"), [(1000, 1), (1999, 1), (2000, 2), (10**15, 2)])
def test_a_call_has_the_price_that_is_in_force_when_it_opens(now_ms, version):
    assert price_at(now_ms, ONE, TWO) == version


def test_prices_of_another_currency_do_not_count():
    assert price_at(1500, EURO, ONE) == 1
    assert price_at(1500, ONE, EURO, currency="EUR") == 3


@pytest.mark.parametrize("prices", [(), (EURO,), (TWO,)])
def test_a_model_of_the_catalogue_without_a_price_cannot_be_called(prices):
    with pytest.raises(errors.PriceMissing, match="USD"):
        price_at(1500, *prices)


def test_a_private_model_without_a_price_costs_nothing():
    assert price_at(1500, is_public=False) == BUILT_IN


def test_a_price_of_the_organizations_own_goes_first_once_it_has_started():
    assert price_at(1500, ONE, overrides={MODEL: [OWN]}) == 4
    assert price_at(1500, ONE, overrides={MODEL: [TWO]}) == 1
    assert price_at(1500, ONE, overrides={"f" * 32: [OWN]}) == 1


def test_the_price_of_all_private_models_is_not_that_of_the_catalogues():
    assert price_at(1500, is_public=False, overrides={"": [OWN]}) == 4
    assert price_at(1500, ONE, overrides={"": [OWN]}) == 1


def test_test_keys_pay_nothing_even_where_there_is_no_price():
    assert pricing.price_of(key(mode="test"), route(), None, 1500) is FREE


@pytest.mark.parametrize("state", ["trialing", "active", "past_due", "grace"])
def test_these_states_are_served(state):
    assert price_at(1500, ONE, state=state) == 1


@pytest.mark.parametrize("state", ["suspended", "closed", "what comes later"])
@pytest.mark.parametrize("mode", ["live", "test"])
def test_these_are_refused_whatever_the_key(state, mode):
    with pytest.raises(errors.AccountSuspended):
        pricing.price_of(key(mode=mode, state=state), route(ONE), None, 1500)


def test_a_quote_holds_its_price_when_another_has_started():
    assert price_at(2500, ONE, TWO, quote=quote()) == 1


def test_a_quote_ends():
    with pytest.raises(errors.QuoteExpired):
        price_at(9000, ONE, quote=quote())


@pytest.mark.parametrize("other", [{"organization": "b" * 32}, {"model": "d" * 32}])
def test_a_quote_is_for_one_organization_and_one_model(other):
    with pytest.raises(errors.QuoteInvalid):
        price_at(1500, ONE, quote=quote(**other))


def test_a_quote_in_a_currency_that_the_organization_has_left_is_over():
    with pytest.raises(errors.QuoteExpired, match="in USD"):
        price_at(1500, EURO, quote=quote(), currency="EUR")


def test_a_quote_of_what_costs_nothing_is_good_in_any_currency():
    assert price_at(1500, quote=quote(price=FREE), is_public=False, currency="EUR") == 0


def test_a_test_key_names_a_good_quote_or_none():
    assert pricing.price_of(key(mode="test"), route(ONE), quote(), 1500) is FREE
    with pytest.raises(errors.QuoteInvalid):
        pricing.price_of(key(mode="test"), route(ONE), quote(model="d" * 32), 1500)


def test_a_signed_quote_is_read_as_it_was():
    assert quotes.read(quotes.sign(quote()).encode()) == quote()


@pytest.mark.parametrize("place", [0, 10, 43, 60, -4])
def test_a_quote_that_was_altered_is_none(place):
    text = quotes.sign(quote(price=TWO))
    changed = text[:place] + ("A" if text[place] != "A" else "B") + (text[place:][1:])

    with pytest.raises(errors.QuoteInvalid):
        quotes.read(changed.encode())


@pytest.mark.parametrize("text", [b"", b"x", b"!!!!", b"A" * 2000, "ä".encode(), b"AAAA" * 30])
def test_what_is_no_quote_is_refused(text):
    with pytest.raises(errors.QuoteInvalid):
        quotes.read(text)


AMOUNTS = st.integers(0, 10**12)


@given(AMOUNTS, AMOUNTS, AMOUNTS, st.integers(0, 1000), st.integers(0, 60_000_000), st.floats(0.001, 60))
def test_the_amount_is_rounded_up_once_and_never_above_the_most(call, row, second, rows, compute_us, timeout):
    price = Price(1, 0, "USD", call, row, second)

    exact = pricing.exact(price, rows, compute_us)

    assert exact == ceil(call + rows * row + Fraction(compute_us * second, 10**6))
    if compute_us <= timeout * 1_000_000:
        assert exact <= pricing.most(price, rows, timeout)


def test_a_call_that_could_cost_more_than_can_be_counted_is_refused():
    with pytest.raises(errors.ValidationFailed, match="9,000,000 USD"):
        pricing.most(Price(1, 0, "USD", 0, 10**15, 0), 10, 30.0)


def test_a_record_of_before_has_terms_that_are_served():
    fields = msgspec.msgpack.decode(pack_key(key_record()))
    del fields["terms"]

    record = unpack_key(msgspec.msgpack.encode(fields))

    assert pricing.price_of(record, route(ONE), None, 1500) == ONE
