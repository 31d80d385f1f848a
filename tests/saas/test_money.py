"""Decimal text and billionths."""

from decimal import Decimal

import pytest

from saas.lib import money

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0.00", 0), ("12.50", 12_500_000_000), ("0.000000001", 1), ("0.00012", 120_000), ("9000000.00", money.MAX_NANO)],
)
def test_text_and_billionths_are_the_same_amount(text, nano):
    assert money.text_of(nano) == text
    assert money.nano_of(text) == nano


def test_few_decimals_are_understood():
    assert money.nano_of("7") == 7 * money.NANO
    assert money.nano_of("7.1") == 7_100_000_000
    assert money.text_of(-1) == "-0.000000001"


NO_AMOUNTS = ["", "-1", "+1", "1.", ".5", "1e3", "NaN", "1,5", "0.0000000001", "٣", "9000000.01", "99999999", " 1"]


@pytest.mark.parametrize("text", NO_AMOUNTS)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError, match=r"At most|decimal"):
        money.nano_of(text)


def test_a_number_of_a_column_is_whole_billionths():
    assert money.nano_of_decimal(Decimal("0.000000001")) == 1
    assert money.nano_of_decimal(Decimal(-12)) == -12 * money.NANO


@pytest.mark.parametrize("amount", ["0.0000000001", "NaN", "Infinity"])
def test_a_number_that_is_none_is_refused(amount):
    with pytest.raises(ValueError, match=r"9 decimals|finite"):
        money.nano_of_decimal(Decimal(amount))
